package material

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/leasehold/leasehold/dataplane/credential"
)

const (
	// fetchTimeout bounds a request for a token.
	fetchTimeout = 10 * time.Second
	// handshakeTimeout bounds the TLS handshake with a token endpoint.
	handshakeTimeout = 5 * time.Second
	// maxTokenHeader bounds the header of a token endpoint's answer. The body is
	// bounded by package oauth2, to 1 MiB.
	maxTokenHeader = 64 << 10
	// maxToken bounds an access token.
	maxToken = 16 << 10
	// firstRest is for how long a token endpoint is left alone after a failure. It
	// doubles with each one up to lastRest.
	firstRest = time.Second
	lastRest  = 30 * time.Second
	// youngToken is for how long a new token that was never accepted is believed to
	// be good, as an upstream that refuses it would refuse the next one too; and how
	// long after a refused token the next refused one is not replaced.
	youngToken = 10 * time.Second
	// shortestLife is for how long a new token has to be good, so that not each
	// request asks for one.
	shortestLife = time.Second
	// mostMargin bounds how long before its end a token is taken for over.
	mostMargin = 10 * time.Second
)

// errClosed says that the worker stops.
var errClosed = errors.New("this worker stops")

// errNoAnswer says that an answer cannot be understood.
var errNoAnswer = errors.New("token endpoint did not answer with an access token as RFC 6749 has it")

// errorCodes are the error codes that a token endpoint may answer with (RFC 6749,
// section 5.2), and the two that many use though they are an authorization endpoint's.
var errorCodes = []string{
	"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope",
	"server_error", "temporarily_unavailable",
}

// token is an access token.
type token struct {
	value   credential.Secret
	fetched time.Time
	// refresh is from when on the next one is fetched, and over from when on this
	// one is not used any more. Zero means never.
	refresh, over time.Time
	proven        atomic.Bool // the upstream has accepted it
}

// tokens gets access tokens from one endpoint. A token is used until shortly before
// it ends; the next one is fetched ahead of that, by one request at a time, for which
// only those wait who have no other. Safe for concurrent use.
//
//	          get                      a token              it is time for the next
//	none ────────────▶ none, fetching ──────────▶ good ───────────────────────▶ good, fetching
//	 ▲ ▲                     │                    │ ▲                              │ │
//	 │ └── failure: rests ───┘                    │ └───── a token, or failure ────┘ │
//	 └──── its time is over, or it was refused ───┴──────────────────────────────────┘
type tokens struct {
	store    *Store
	upstream string // its name, for the log
	oauth    *credential.OAuth
	tls      *settings // nil for plain HTTP

	mu       sync.Mutex    // guards what follows
	current  *token        // nil for none
	fetching chan struct{} // closed when the request under way is over; nil without one
	failed   error         // what the last request came to; nil if to a token
	rest     time.Duration
	again    time.Time // when the endpoint may be asked again
	refused  time.Time // when a token was given up since it was refused
}

func newTokens(store *Store, upstream string, oauth *credential.OAuth) *tokens {
	t := &tokens{store: store, upstream: upstream, oauth: oauth}
	if oauth.TokenURL.Scheme == "https" {
		t.tls = &settings{tls: oauth.TLS, host: oauth.TokenURL.Hostname()}
	}
	return t
}

// get returns a token that is good now. The error is a *Missing, or the context's.
func (t *tokens) get(ctx context.Context) (*token, error) {
	for {
		current, wait, err := t.look()
		if current != nil || err != nil {
			return current, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// look returns the token that is there, or what to wait for until there may be one.
func (t *tokens) look() (*token, <-chan struct{}, error) {
	now := t.store.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current != nil && !t.current.over.IsZero() && !now.Before(t.current.over) {
		t.current = nil
	}
	due := t.current == nil || !t.current.refresh.IsZero() && !now.Before(t.current.refresh)
	if due && t.fetching == nil && !now.Before(t.again) {
		t.fetching = make(chan struct{})
		if !t.store.launch(t.fetch) {
			t.fetching = nil
			t.failed = errClosed
		}
	}
	switch {
	case t.current != nil:
		return t.current, nil, nil
	case t.fetching == nil:
		return nil, nil, &Missing{t.failed}
	}
	return nil, t.fetching, nil
}

// reject is told that the upstream refuses a token, and reports whether there is
// another one, or one may be got.
func (t *tokens) reject(refused *token) bool {
	now := t.store.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.current != refused:
		return true
	case !refused.proven.Load() && now.Sub(refused.fetched) < youngToken, now.Sub(t.refused) < youngToken:
		return false
	}
	t.current, t.refused = nil, now
	return true
}

// fetch asks the endpoint for a token.
func (t *tokens) fetch(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	began := t.store.now()
	next, err := t.ask(ctx, began)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		t.current, t.failed, t.rest = next, nil, 0
	} else {
		t.rest = min(max(2*t.rest, firstRest), lastRest)
		t.failed, t.again = err, t.store.now().Add(t.rest-rand.N(t.rest/5))
		t.store.cfg.Logger.Warn("no access token", "upstream", t.upstream, "error", err, "again_in", t.rest)
	}
	close(t.fetching)
	t.fetching = nil
}

func (t *tokens) ask(ctx context.Context, began time.Time) (*token, error) {
	secret, err := t.store.secret(t.oauth.ClientSecret)
	if err != nil {
		return nil, err
	}
	client, err := t.client()
	if err != nil {
		return nil, err
	}
	style := oauth2.AuthStyleInHeader
	if t.oauth.InBody {
		style = oauth2.AuthStyleInParams
	}
	parameters := url.Values{}
	for name, value := range t.oauth.Parameters {
		parameters.Set(name, value)
	}
	request := clientcredentials.Config{ClientID: t.oauth.ClientID, ClientSecret: secret.Reveal(), TokenURL: t.oauth.TokenURL.String(),
		Scopes: t.oauth.Scopes, EndpointParams: parameters, AuthStyle: style}
	var heard atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotFirstResponseByte: func() { heard.Store(true) }})
	answer, err := request.Token(context.WithValue(ctx, oauth2.HTTPClient, client))
	if err != nil && heard.Load() && ctx.Err() == nil {
		return nil, ofAnswer(err)
	}
	if err != nil {
		return nil, ofConnection(err)
	}
	return accept(answer, began)
}

// client returns a client that asks the endpoint and nobody else.
func (t *tokens) client() (*http.Client, error) {
	transport := &http.Transport{
		DialContext: t.store.cfg.Dialer.DialContext, DisableKeepAlives: true,
		TLSHandshakeTimeout: handshakeTimeout, MaxResponseHeaderBytes: maxTokenHeader,
	}
	if t.tls != nil {
		var err error
		if transport.TLSClientConfig, _, err = t.tls.get(t.store); err != nil {
			return nil, err
		}
	}
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, nil
}

// ofAnswer says what is wrong with an answer, without anything that the endpoint says in
// words of its own: they may repeat what it was sent.
func ofAnswer(err error) error {
	if answered := (*oauth2.RetrieveError)(nil); errors.As(err, &answered) && answered.Response != nil {
		code := "no error code of RFC 6749"
		if slices.Contains(errorCodes, answered.ErrorCode) {
			code = fmt.Sprintf("error code %q", answered.ErrorCode)
		}
		return fmt.Errorf("token endpoint answered HTTP %d (%s)", answered.Response.StatusCode, code)
	}
	return errNoAnswer
}

// ofConnection says why there is no answer.
func ofConnection(err error) error {
	if failed := (*url.Error)(nil); errors.As(err, &failed) {
		err = failed.Err // without the URL
	}
	return fmt.Errorf("ask token endpoint: %w", err)
}

// accept makes a token of an answer.
func accept(answer *oauth2.Token, began time.Time) (*token, error) {
	if !strings.EqualFold(answer.Type(), "Bearer") {
		return nil, fmt.Errorf("token endpoint gave a token of another type than Bearer (%d bytes)", len(answer.TokenType))
	}
	if n := len(answer.AccessToken); n > maxToken || strings.ContainsFunc(answer.AccessToken, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, fmt.Errorf("token endpoint gave a token of %d bytes, want at most %d visible characters", n, maxToken)
	}
	own := &token{value: credential.NewSecret(answer.AccessToken), fetched: began}
	if !answer.Expiry.IsZero() {
		life := time.Until(answer.Expiry)
		if life < shortestLife {
			return nil, fmt.Errorf("token endpoint gave a token that is good for %v, want at least %v", life.Round(time.Millisecond), shortestLife)
		}
		// Workers that got theirs together shall not all ask again at once.
		own.refresh = began.Add(life*3/4 - rand.N(life/10+1))
		own.over = began.Add(life - min(life/10, mostMargin))
	}
	return own, nil
}
