package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// handleControl adds the endpoints by which a test in another process uses the
// ledger: it reads it, resets it, tells it about processes and opens gates.
func (l *Ledger) handleControl(mux *http.ServeMux) {
	mux.HandleFunc("GET /ledger", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(l.Report(r.URL.Query().Has("entries")))
	})
	mux.HandleFunc("POST /ledger/take", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(l.Take())
	})
	mux.HandleFunc("POST /ledger/reset", func(w http.ResponseWriter, r *http.Request) { l.Reset() })
	mux.HandleFunc("POST /ledger/release", func(w http.ResponseWriter, r *http.Request) {
		l.Release(r.URL.Query().Get("gate"))
	})
	mux.HandleFunc("POST /ledger/forget", func(w http.ResponseWriter, r *http.Request) {
		l.Forget(r.URL.Query().Get("session"))
	})
	mux.HandleFunc("POST /ledger/know", func(w http.ResponseWriter, r *http.Request) {
		var pids []int
		if err := json.NewDecoder(r.Body).Decode(&pids); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		l.Know(pids)
	})
}

// Remote is a ledger in another process.
type Remote struct {
	// Base is the server's URL without a path.
	Base string
}

// URL is where the server speaks MCP.
func (r Remote) URL() string { return r.Base + Path }

// Report returns what the ledger knows now, with all entries.
func (r Remote) Report(ctx context.Context) (Report, error) {
	return r.report(ctx, http.MethodGet, "/ledger?entries")
}

// Summary returns what the ledger knows now, without entries.
func (r Remote) Summary(ctx context.Context) (Report, error) {
	return r.report(ctx, http.MethodGet, "/ledger")
}

// Take returns what the ledger knows now, with all entries, which it then
// forgets.
func (r Remote) Take(ctx context.Context) (Report, error) {
	return r.report(ctx, http.MethodPost, "/ledger/take")
}

// Reset forgets the entries and the count of opened sessions.
func (r Remote) Reset(ctx context.Context) error {
	_, err := r.do(ctx, http.MethodPost, "/ledger/reset", nil)
	return err
}

// Release opens a gate.
func (r Remote) Release(ctx context.Context, gate string) error {
	_, err := r.do(ctx, http.MethodPost, "/ledger/release?gate="+url.QueryEscape(gate), nil)
	return err
}

// Forget makes the server lose a session.
func (r Remote) Forget(ctx context.Context, session string) error {
	_, err := r.do(ctx, http.MethodPost, "/ledger/forget?session="+url.QueryEscape(session), nil)
	return err
}

// Know tells the ledger which processes may turn up as clients.
func (r Remote) Know(ctx context.Context, pids []int) error {
	body, err := json.Marshal(pids)
	if err != nil {
		return err
	}
	_, err = r.do(ctx, http.MethodPost, "/ledger/know", body)
	return err
}

// report reads a report.
func (r Remote) report(ctx context.Context, method, path string) (Report, error) {
	body, err := r.do(ctx, method, path, nil)
	if err != nil {
		return Report{}, err
	}
	var report Report
	if err := json.Unmarshal(body, &report); err != nil {
		return Report{}, fmt.Errorf("read ledger: %w", err)
	}
	return report, nil
}

// do asks a control endpoint.
func (r Remote) do(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, r.Base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask ledger: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("ask ledger: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask ledger: %s: %s", resp.Status, answer)
	}
	return answer, nil
}
