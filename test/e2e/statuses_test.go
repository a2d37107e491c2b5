package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/client"
)

// ping is a request that any session answers.
const ping = `{"jsonrpc":"2.0","id":7,"method":"ping"}`

// maxBody is the bound of a request's body.
const maxBody = 4 << 20

func TestRefusalsHaveTheirStatus(t *testing.T) {
	c := shared(t)
	c.Serve(t, "statuses", "")
	url := c.Workers[1].URL("statuses")
	s := open(t, c.Workers[0], "statuses")
	with := func(name, value string) http.Header {
		h := s.Header()
		h.Set(name, value)
		return h
	}
	// The client itself sends seven: Accept, Accept-Encoding, Content-Type,
	// Content-Length, User-Agent, the session id and the version; and Host.
	fields := func(n int) http.Header {
		h := s.Header()
		for i := range n - 7 {
			h.Set(fmt.Sprintf("X-Field-%d", i), "x")
		}
		return h
	}
	deep := `{"jsonrpc":"2.0","id":7,"method":"ping","params":` + strings.Repeat(`{"a":`, 64) + "1" + strings.Repeat("}", 64) + "}"
	cases := []struct {
		name   string
		method string
		header http.Header
		body   string
		status int
		code   int    // of the JSON-RPC error; 0 if there need not be one
		id     string // that the error carries
		says   string // what the body has to name
	}{
		{name: "no session id", method: "POST", header: http.Header{}, body: ping, status: 400, code: -32600, id: "7"},
		{name: "no session id at GET", method: "GET", header: http.Header{}, status: 400},
		{name: "no session id at DELETE", method: "DELETE", header: http.Header{}, status: 400},
		{name: "POST that accepts JSON alone", method: "POST", header: with("Accept", "application/json"), body: ping, status: 406},
		{name: "GET that accepts JSON alone", method: "GET", header: with("Accept", "application/json"), status: 406},
		{name: "text", method: "POST", header: with("Content-Type", "text/plain"), body: ping, status: 415},
		{name: "unknown protocol version", method: "POST", header: with("Mcp-Protocol-Version", "1999-01-01"), body: ping, status: 400},
		{name: "not JSON", method: "POST", header: s.Header(), body: "{", status: 400, code: -32700, id: "null"},
		{name: "batch", method: "POST", header: s.Header(), body: "[" + ping + "]", status: 400, code: -32600, id: "null"},
		{name: "JSON of depth 65", method: "POST", header: s.Header(), body: deep, status: 400, code: -32600, says: "64"},
		{name: "body of 4 MiB and a byte", method: "POST", header: s.Header(), body: padded(maxBody + 1), status: 413, says: "4"},
		{name: "more than 64 header fields", method: "POST", header: fields(65), body: ping, status: 431, says: "64"},
		{name: "header of 40 KiB", method: "POST", header: with("X-Long", strings.Repeat("x", 40<<10)), body: ping, status: 431},
		{name: "Origin of another site", method: "POST", header: with("Origin", "http://evil.example"), body: ping, status: 403},
		{name: "Host of another site", method: "POST", header: with("Host", "evil.example"), body: ping, status: 403},
		{name: "PUT", method: "PUT", header: s.Header(), body: ping, status: 405},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			var body []byte
			if tc.body != "" {
				body = []byte(tc.body)
			}
			resp, err := client.Do(t.Context(), tc.method, url, tc.header, body)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d %.200s", resp.Status, resp.Body)
			if resp.Status != tc.status {
				t.Errorf("status %d, want %d", resp.Status, tc.status)
			}
			if !strings.Contains(string(resp.Body), tc.says) {
				t.Errorf("the body does not say %q", tc.says)
			}
			if tc.code != 0 {
				envelope, err := resp.Envelope()
				if err != nil || envelope.Error == nil || envelope.Error.Code != tc.code {
					t.Errorf("want error %d", tc.code)
				}
				if tc.id != "" && string(envelope.ID) != tc.id {
					t.Errorf("id %s, want %s", envelope.ID, tc.id)
				}
			}
			if allow := resp.Header.Get("Allow"); tc.status == 405 && !strings.Contains(allow, "POST") {
				t.Errorf("Allow is %q", allow)
			}
		})
	}
	t.Run("63 header fields and Host", func(t *testing.T) {
		resp, err := client.Do(t.Context(), "POST", url, fields(63), []byte(ping))
		if err != nil || resp.Status != 200 {
			t.Errorf("status %d, %v; want 200", resp.Status, err)
		}
	})
	t.Run("body of exactly 4 MiB", func(t *testing.T) {
		resp, err := s.Do(t.Context(), "POST", url, []byte(padded(maxBody)))
		if err != nil || resp.Status != 200 {
			t.Errorf("status %d, %v; want 200", resp.Status, err)
		}
	})
	increment(t, s, c.Workers[2], "statuses", 1)
}

// padded is a ping of exactly n bytes.
func padded(n int) string {
	return strings.Replace(ping, "{", "{"+strings.Repeat(" ", n-len(ping)), 1)
}

func TestForgedUnknownAndForeignSessionsLookTheSame(t *testing.T) {
	c := shared(t)
	remote := c.Serve(t, "mine", "")
	c.Publish(t, "theirs", remote.URL(), "")
	url := c.Workers[1].URL("mine")
	real, foreign := open(t, c.Workers[0], "mine"), open(t, c.Workers[0], "theirs")
	ended := open(t, c.Workers[0], "mine")
	if err := ended.Close(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	middle := len(real.ID) / 2
	forged := real.ID[:middle] + string(flip(real.ID[middle])) + real.ID[middle+1:]
	ids := map[string]string{
		"forged": forged, "of another gateway": foreign.ID, "ended": ended.ID, "made up": "hello",
		"cut": real.ID[:len(real.ID)-4], "under a key we have, but random": real.ID[:keyEnd] + strings.Repeat("A", len(real.ID)-keyEnd),
	}
	var first []byte
	for name, id := range ids {
		for _, w := range c.Workers {
			s := &client.Session{ID: id, Protocol: client.Version}
			resp, err := s.Do(t.Context(), "POST", w.URL("mine"), []byte(ping))
			if err != nil {
				t.Fatal(err)
			}
			wantError(t, name, resp, 404, -32001, "7")
			if first == nil {
				first = resp.Body
			}
			if !bytes.Equal(resp.Body, first) {
				t.Errorf("%s: body %q differs from %q", name, resp.Body, first)
			}
			for _, method := range []string{"GET", "DELETE"} {
				if resp, err := s.Do(t.Context(), method, w.URL("mine"), nil); err != nil || resp.Status != 404 {
					t.Errorf("%s, %s: status %d, %v; want 404", name, method, resp.Status, err)
				}
			}
		}
	}
	increment(t, real, c.Workers[2], "mine", 1)
	increment(t, foreign, c.Workers[2], "theirs", 1)
}

// keyEnd is where the part of a session id ends that tells the key: the prefix
// and the 4 bytes of the key's id, in base64.
const keyEnd = len("lh1.") + 6

// TestAnUnknownKeyIsOverOnceTheRingIsKnown is about ids whose key nobody has
// any more: their clients must be told to begin anew. That a key is not known
// yet may be said for a moment only.
func TestAnUnknownKeyIsOverOnceTheRingIsKnown(t *testing.T) {
	c := shared(t)
	c.Serve(t, "keys", "")
	s := open(t, c.Workers[0], "keys")
	s.ID = "lh1." + strings.Repeat("A", len(s.ID)-4)
	for _, w := range c.Workers {
		eventually(t, 10*time.Second, func(ctx context.Context) error {
			resp, err := s.Do(ctx, "POST", w.URL("keys"), []byte(ping))
			if err == nil && resp.Status != 404 {
				err = fmt.Errorf("%s answers %d %.200s, want 404", w.Name, resp.Status, resp.Body)
			}
			return err
		})
	}
}

// flip returns another character of the same alphabet.
func flip(c byte) byte {
	if c == 'A' {
		return 'B'
	}
	return 'A'
}
