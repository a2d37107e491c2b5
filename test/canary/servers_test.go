package canary

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"

	"github.com/leasehold/leasehold/test/internal/canary"
)

// servers are upstreams and token endpoints, good and bad ones. The bad ones give back
// what they were shown in each way that there is.
type servers struct {
	base, secure string // of the upstreams
	echo         string // host:port of a server that sends back what it gets
	authority    []byte // of secure, as PEM

	mu    sync.Mutex // guards what follows
	found *canary.Set
	shown map[string]bool // the secrets that upstreams were shown, by their names
	ids   []string        // of upstream sessions
	given []string        // the tokens that good endpoints give
}

func startServers(t *testing.T, found *canary.Set, clients *x509.CertPool) *servers {
	t.Helper()
	s := &servers{found: found, shown: map[string]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("/mcp/", s.serve)
	mux.HandleFunc("/token/", s.token)
	mux.HandleFunc("/bad/", s.bad)
	plain := httptest.NewServer(mux)
	t.Cleanup(plain.Close)
	s.base = plain.URL
	secure := httptest.NewUnstartedServer(mux)
	secure.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // of those who refuse it, as they shall
	secure.StartTLS()
	t.Cleanup(secure.Close)
	s.secure, s.authority = secure.URL, certificatePEM(secure.Certificate().Raw)
	s.echo = echo(t)
	return s
}

// note notes which secrets a request shows.
func (s *servers) note(r *http.Request, body []byte) {
	var head bytes.Buffer
	fmt.Fprintln(&head, r.URL.String())
	r.Header.Write(&head)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range s.found.Find(append(head.Bytes(), body...)) {
		s.shown[name] = true
	}
}

// was reports whether an upstream was shown a secret.
func (s *servers) was(shown string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown[shown]
}

// sessions are the ids of the upstream sessions that there were.
func (s *servers) sessions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ids
}

// endpoint returns the URL of an endpoint that gives a token.
func (s *servers) endpoint(token string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.given = append(s.given, token)
	return fmt.Sprintf("%s/token/%d", s.base, len(s.given)-1)
}

// serve is an MCP server that is content with everybody.
func (s *servers) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.note(r, body)
	var request struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
	}
	_ = json.Unmarshal(body, &request)
	switch {
	case r.Method == http.MethodGet:
		w.WriteHeader(http.StatusMethodNotAllowed)
	case r.Method == http.MethodDelete:
	case request.ID == nil:
		w.WriteHeader(http.StatusAccepted)
	default:
		if request.Method == "initialize" {
			id := canary.New()
			s.mu.Lock()
			s.ids = append(s.ids, id)
			s.mu.Unlock()
			w.Header().Set("Mcp-Session-Id", id)
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write(result(request.ID, request.Method))
	}
}

// token is a token endpoint. What comes after /token/ is the number of the token that it
// gives, or what is wrong with it.
func (s *servers) token(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.note(r, body)
	_, secret, _ := r.BasicAuth()
	w.Header().Set("Content-Type", "application/json")
	answer := map[string]any{"access_token": secret, "token_type": "Bearer", "expires_in": 3600}
	switch how := r.URL.Path[len("/token/"):]; how {
	case "refuses":
		w.WriteHeader(http.StatusBadRequest)
		answer = map[string]any{"error": secret, "error_description": secret, "error_uri": secret}
	case "type":
		answer["token_type"] = secret
	case "expiry":
		answer["expires_in"] = secret
	case "redirects":
		w.Header().Set("Location", "/elsewhere?secret="+secret)
		w.WriteHeader(http.StatusFound)
	case "nonsense":
		fmt.Fprintf(w, "%s\n", secret)
		return
	case "space":
		answer["access_token"] = secret + " with a space"
	default:
		number, _ := strconv.Atoi(how)
		s.mu.Lock()
		answer["access_token"] = s.given[number]
		s.mu.Unlock()
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// bad is a server that refuses in many words.
func (s *servers) bad(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.note(r, body)
	var words bytes.Buffer
	r.Header.Write(&words)
	fmt.Fprintf(&words, "%s\n%s\n", r.URL, body)
	secret := r.Header.Get("X-Canary")
	switch r.URL.Path[len("/bad/"):] {
	case "401":
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+secret+`"`)
		w.WriteHeader(http.StatusUnauthorized)
	case "500":
		w.WriteHeader(http.StatusInternalServerError)
	case "redirect":
		w.Header().Set("Location", "/elsewhere?"+r.URL.RawQuery)
		w.WriteHeader(http.StatusTemporaryRedirect)
	case "session":
		w.Header().Set("Mcp-Session-Id", secret+" \u00e9")
		w.Header().Set("Content-Type", "application/json")
		w.Write(result(json.RawMessage("1"), "initialize"))
		return
	case "type":
		w.Header().Set("Content-Type", secret)
	case "version":
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":%q,"capabilities":{},"serverInfo":{"name":"x","version":"1"}}}`, secret)
		return
	case "error":
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":%q}}`, secret)
		return
	case "sse":
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "event: endpoint\ndata: /mcp/legacy?session_id=%s\n\nevent: message\ndata: %s\n\n", secret, secret)
		return
	case "nowhere":
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "event: endpoint\ndata: http://%s.invalid/?x=%s\n\n", secret, secret)
		return
	}
	w.Write(words.Bytes())
}

// echo starts a server that sends back what it gets, and returns its address.
func echo(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer conn.Close()
				buffer := make([]byte, 64<<10)
				if n, err := conn.Read(buffer); err == nil {
					conn.Write(buffer[:n])
				}
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		group.Wait()
	})
	return listener.Addr().String()
}
