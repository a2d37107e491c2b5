package volley

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

func TestMain(m *testing.M) {
	code := m.Run()
	cluster.RemoveBinaries()
	os.Exit(code)
}

func TestVolleyIsFiredAtOnceAndAnsweredInOrder(t *testing.T) {
	const n = 40
	var here sync.WaitGroup
	here.Add(n)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		here.Done()
		here.Wait() // for all the others
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Of", r.Header.Get("Number"))
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL, body)
	}))
	defer server.Close()
	requests := make([]Request, n)
	for i := range requests {
		requests[i] = Request{URL: fmt.Sprintf("%s/path?of=%d", server.URL, i), Header: map[string]string{"Number": fmt.Sprint(i)}, Body: fmt.Sprint("body ", i)}
	}
	v, err := Load(t.Context(), requests, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	answers, err := v.Fire()
	if err != nil {
		t.Fatal(err)
	}
	if len(answers) != n {
		t.Fatalf("got %d answers, want %d", len(answers), n)
	}
	for i, a := range answers {
		want := fmt.Sprintf("POST /path?of=%d body %d", i, i)
		if a.Status != http.StatusAccepted || a.Body != want || a.Header["Of"] != fmt.Sprint(i) || a.Failure != "" {
			t.Errorf("answer %d: got %+v, want status %d and body %q", i, a, http.StatusAccepted, want)
		}
		if a.Begin.Before(before) || a.End.Before(a.Begin) || time.Since(a.End) < 0 {
			t.Errorf("answer %d: got a time from %v to %v, want one after %v", i, a.Begin, a.End, before)
		}
	}
}

func TestRequestsThatFailSayWhy(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/breaks" {
			w.Header().Set("Content-Length", "10")
			io.WriteString(w, "half")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		<-r.Context().Done() // silent
	}))
	defer server.Close()
	v, err := Load(t.Context(), []Request{{URL: server.URL + "/breaks"}, {URL: server.URL + "/silent"}, {URL: "http://127.0.0.1:1/"}}, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	answers, err := v.Fire()
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []Answer{{Status: http.StatusOK, Body: "half"}, {}, {}} {
		if a := answers[i]; a.Failure == "" || a.Status != want.Status || a.Body != want.Body {
			t.Errorf("answer %d: got %+v, want a failure, status %d and body %q", i, a, want.Status, want.Body)
		}
	}
}
