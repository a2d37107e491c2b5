package conformance

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
)

// probedServers are those that the probes ask.
var probedServers = []server{goSDK, goSDKEvents, mcpGo, typeScript, everything}

// TestServersOfAllKindsAnswerAsRecorded asks each server every question directly,
// through two workers in turn, and at one worker alone. What differs from the
// direct answer is recorded with the reason why it is closer to the specification.
func TestServersOfAllKindsAnswerAsRecorded(t *testing.T) {
	recorded, err := parseProbes(read(t, probesFile))
	if err != nil {
		t.Fatal(err)
	}
	w := start(t, probedServers...)
	found := make([]map[asked]answers, len(probedServers))
	var group sync.WaitGroup
	for i, s := range probedServers {
		behind, err := startFront(w.workers()...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(behind.Close)
		direct := "http://" + w.serve(t, s, s.name+"-direct") + "/mcp"
		w.cluster.Publish(t, s.name, "http://"+w.serve(t, s, s.name+"-behind")+"/mcp", "")
		path := "/gateways/" + s.name + "/mcp"
		group.Go(func() {
			found[i] = map[asked]answers{}
			for _, p := range probes {
				a := answers{direct: put(t, p, s, direct), via: put(t, p, s, behind.URL+path)}
				if alone := put(t, p, s, "http://"+w.workers()[0]+path); alone != a.via {
					t.Errorf("%s of %s: %q through two workers, %q at one", p.name, s.name, a.via, alone)
				}
				found[i][asked{p.name, s.name}] = a
			}
		})
	}
	group.Wait()
	all := map[asked]answers{}
	for _, some := range found {
		maps.Copy(all, some)
	}
	compareProbes(t, recorded, all)
}

// put asks a server, at url, one question.
func put(t *testing.T, p probe, s server, url string) string {
	t.Helper()
	a := &asker{client: browser(t), url: url, slow: s.slow}
	defer a.end(context.Background())
	said, err := p.ask(t.Context(), a)
	if err != nil {
		said = strings.TrimSpace(said + " and then: " + err.Error())
	}
	return said
}

// compareProbes checks what was found against what is recorded.
func compareProbes(t *testing.T, recorded, found map[asked]answers) {
	t.Helper()
	for _, p := range probes {
		for _, s := range probedServers {
			key := asked{p.name, s.name}
			got, want := found[key], recorded[key]
			got.why = want.why
			if got != want {
				t.Errorf("%s: got %s\nwant %s", probesFile, line(key, got), line(key, want))
			}
		}
	}
	for _, key := range slices.Collect(maps.Keys(recorded)) {
		if _, asked := found[key]; !asked {
			t.Errorf("%s: nobody asks %v", probesFile, key)
		}
	}
}

func TestRecordedAnswersThatDifferHaveAReason(t *testing.T) {
	tests := map[string]string{
		"# comment\n\np | s | 200 sse | 200 sse |":         "",
		"p | s | 200 sse | 200 sse":                        "",
		"p | s | 400 text | 404 json -32001 | must be 404": "",
		"p | s | 400 text | 404 json -32001 |":             "reason",
		"p | s | 400 text | 400 text | none":               "reason",
		"p | s | 400 text":                                 "want PROBE",
		"p | s | a | a |\np | s | a | a |":                 "twice",
	}
	for text, want := range tests {
		_, err := parseProbes(text)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}
