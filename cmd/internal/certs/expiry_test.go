package certs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leasehold/leasehold/cmd/internal/certs/certtest"
)

const day = 24 * time.Hour

// lasting loads a pair that is good until then, with its log.
func lasting(t *testing.T, from, until time.Time) (*Pair, *strings.Builder) {
	t.Helper()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	certtest.MakeFor(t, "one", from, until).Write(t, cert, key)
	var log strings.Builder
	pair, err := Load(cert, key, hclog.New(&hclog.LoggerOptions{Output: &log}))
	if err != nil {
		t.Fatal(err)
	}
	return pair, &log
}

func TestAnEndThatIsNearIsWarnedOfOnceADay(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		life time.Duration
		at   map[time.Duration]int // how often it was warned of, by the time before the end
	}{
		"a long life":  {90 * day, map[time.Duration]int{8 * day: 0, 7*day - time.Minute: 1, 6*day + time.Hour: 1, 5*day + 23*time.Hour: 2, -time.Second: 3, -time.Hour: 3, -2 * day: 4}},
		"a short life": {3 * day, map[time.Duration]int{25 * time.Hour: 0, 23 * time.Hour: 1, -time.Second: 2}},
	} {
		until := now.Add(c.life)
		pair, log := lasting(t, now, until)
		for _, before := range []time.Duration{8 * day, 7*day - time.Minute, 6*day + time.Hour, 5*day + 23*time.Hour, 25 * time.Hour, 23 * time.Hour, -time.Second, -time.Hour, -2 * day} {
			want, ok := c.at[before]
			if !ok {
				continue
			}
			pair.age(until.Add(-before))
			if got := strings.Count(log.String(), "[WARN]"); got != want {
				t.Errorf("%s, %v before the end: warned %d times, want %d:\n%s", name, before, got, want, log)
			}
		}
		if !strings.Contains(log.String(), "expires soon") || !strings.Contains(log.String(), "has expired") {
			t.Errorf("%s: the log does not say what is wrong:\n%s", name, log)
		}
	}
}

func TestANewCertificateIsWarnedOfForItself(t *testing.T) {
	pair, log := lasting(t, time.Now().Add(-90*day), time.Now().Add(day))
	if got := strings.Count(log.String(), "expires soon"); got != 1 {
		t.Fatalf("warned %d times when it was loaded, want once:\n%s", got, log)
	}
	certtest.MakeFor(t, "two", time.Now().Add(-90*day), time.Now().Add(2*day)).Write(t, pair.list[0].path, pair.list[1].path)
	pair.look()
	pair.look()
	if got := strings.Count(log.String(), "expires soon"); got != 2 {
		t.Errorf("warned %d times of two certificates, want twice:\n%s", got, log)
	}
}

func TestTheMetricSaysWhenTheCertificateInUseEnds(t *testing.T) {
	until := time.Now().Add(100 * day)
	pair, _ := lasting(t, time.Now(), until)
	registry := prometheus.NewRegistry()
	if err := pair.Register(registry, "clients"); err != nil {
		t.Fatal(err)
	}
	if err := pair.Register(registry, "clients"); err == nil {
		t.Error("a second pair of the same use: got no error")
	}
	expect := func(until time.Time) {
		t.Helper()
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		metric := families[0].GetMetric()[0]
		if got := int64(metric.GetGauge().GetValue()); got != until.Unix() || metric.GetLabel()[0].GetValue() != "clients" {
			t.Errorf("got %d for %v, want %d for clients", got, metric.GetLabel(), until.Unix())
		}
	}
	expect(until)
	later := until.Add(day)
	certtest.MakeFor(t, "two", time.Now(), later).Write(t, pair.list[0].path, pair.list[1].path)
	pair.look()
	expect(later)
}

func TestABundleIsTakenWholeOrNotAtAll(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ca.crt")
	first, second := certtest.Make(t, "first"), certtest.Make(t, "second")
	write := func(data string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(string(first.Cert))
	var log strings.Builder
	bundle, err := LoadBundle(path, hclog.New(&hclog.LoggerOptions{Output: &log}))
	if err != nil {
		t.Fatal(err)
	}
	one := bundle.Pool()
	both := string(first.Cert) + string(second.Cert)
	for name, data := range map[string]string{
		"cut within the second": both[:len(both)-40],
		"a key in it":           string(first.Cert) + string(second.Key),
		"no certificate":        "# nothing\n",
		"empty":                 "",
		"not an authority's":    string(certtest.Leaf(t, "leaf").Cert),
	} {
		write(data)
		bundle.look()
		if !bundle.Pool().Equal(one) {
			t.Errorf("%s: the authorities changed", name)
		}
		if !strings.Contains(log.String(), "the last good ones stay") {
			t.Errorf("%s: nothing was logged", name)
		}
		log.Reset()
		if _, err := LoadBundle(path, hclog.NewNullLogger()); err == nil {
			t.Errorf("%s: got no error when it is loaded", name)
		}
	}
	write("# two authorities\n" + both + "\n")
	bundle.look()
	if bundle.Pool().Equal(one) || !strings.Contains(log.String(), "authorities changed") {
		t.Errorf("the second authority was not taken: %s", log.String())
	}
}
