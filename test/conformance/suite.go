package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// suiteDir has the npm packages of the suites.
const suiteDir = "suite"

// suiteLimit is how long one run of a suite may take. A run takes three seconds.
const suiteLimit = time.Minute

// scenarioLimit is how long a scenario may take where a suite lets us say it;
// some read a stream for ten seconds.
const scenarioLimit = 12 * time.Second

// suite is one run of the official suite against a server, or with a client.
type suite struct {
	// name names it in the files of this directory.
	name string
	// pkg is the package in suiteDir.
	pkg string
	// all are the arguments that choose the scenarios of a run against a server.
	all []string
	// one are the arguments that, with a scenario's name, run it alone.
	one []string
}

// suites are the runs against a server that are compared.
var suites = []suite{
	{
		name: "0.1/all", pkg: "conformance-0.1",
		all: []string{"--suite", "all"},
	}, {
		name: "0.2/requirements-2025-11-25", pkg: "conformance-0.2",
		all: []string{"--requirements", "2025-11-25", "--timeout", timeout},
		one: []string{"--spec-version", "2025-11-25", "--timeout", timeout},
	}, {
		name: "0.2/all-2025-06-18", pkg: "conformance-0.2",
		all: []string{"--suite", "all", "--spec-version", "2025-06-18", "--timeout", timeout},
		one: []string{"--spec-version", "2025-06-18", "--timeout", timeout},
	}, {
		name: "0.2/all-2025-11-25", pkg: "conformance-0.2",
		all: []string{"--suite", "all", "--spec-version", "2025-11-25", "--timeout", timeout},
		one: []string{"--spec-version", "2025-11-25", "--timeout", timeout},
	},
}

// clientSuites are the runs with a client that are compared: the suite is the
// server, one for each scenario.
var clientSuites = []struct {
	suite
	// scenarios are those in which a client has a session.
	scenarios []string
}{
	{
		suite{name: "0.1/client", pkg: "conformance-0.1"},
		[]string{"initialize", "tools_call", "elicitation-sep1034-client-defaults", "sse-retry"},
	}, {
		suite{name: "0.2/client-2025-06-18", pkg: "conformance-0.2", one: []string{"--spec-version", "2025-06-18", "--timeout", timeout}},
		[]string{"initialize", "tools_call"},
	}, {
		suite{name: "0.2/client-2025-11-25", pkg: "conformance-0.2", one: []string{"--spec-version", "2025-11-25", "--timeout", timeout}},
		[]string{"initialize", "tools_call", "elicitation-sep1034-client-defaults", "sse-retry", "json-schema-2020-12-preservation"},
	},
}

// itself names the server of a pairing in which the suite is the server.
const itself = "suite"

// pairings are all that are compared.
func pairings() []pairing {
	var all []pairing
	for _, s := range servers {
		for _, suite := range suites {
			all = append(all, pairing{s.name, suite.name})
		}
	}
	for _, suite := range clientSuites {
		all = append(all, pairing{itself, suite.name})
	}
	return all
}

// timeout is scenarioLimit as the suites take it.
var timeout = fmt.Sprint(scenarioLimit.Milliseconds())

// check is one statement of a suite about a server.
type check struct {
	// ID names the check within its scenario; not all ids of a scenario differ.
	ID string `json:"id"`
	// Status is SUCCESS, FAILURE, WARNING, SKIPPED or INFO.
	Status string `json:"status"`
	// Message says what was wrong.
	Message string `json:"errorMessage"`
}

// results are the checks of a run by scenario, without those that only inform.
type results map[string][]check

// runAll runs all scenarios of a suite against the server at url and keeps what
// it writes in dir.
func (s *suite) runAll(ctx context.Context, url, dir string) (results, error) {
	return s.run(ctx, dir, append([]string{"server", "--url", url}, s.all...))
}

// runOne runs one scenario against the server at url. A scenario that left no
// result has no checks.
func (s *suite) runOne(ctx context.Context, url, dir, scenario string) ([]check, error) {
	r, err := s.run(ctx, dir, append([]string{"server", "--url", url, "--scenario", scenario}, s.one...))
	return r[scenario], err
}

// runClient runs one scenario with a client, a command that is given the URL of
// the scenario's server as its last argument.
func (s *suite) runClient(ctx context.Context, command, dir, scenario string) ([]check, error) {
	r, err := s.run(ctx, dir, append([]string{"client", "--command", command, "--scenario", scenario}, s.one...))
	return r[scenario], err
}

// run runs a suite. That a check is not met, or a scenario not finished, is not
// an error.
func (s *suite) run(ctx context.Context, dir string, args []string) (results, error) {
	ctx, cancel := context.WithTimeout(ctx, suiteLimit)
	defer cancel()
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	command := append([]string{
		"--import", "./preload.mjs", "node_modules/" + s.pkg + "/dist/index.js",
	}, args...)
	command = append(command, "-o", dir)
	cmd := exec.CommandContext(ctx, "node", command...)
	cmd.Dir = suiteDir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	found, readErr := readResults(dir)
	if readErr != nil {
		return nil, fmt.Errorf("%s: %w", s.name, readErr)
	}
	var exit *exec.ExitError
	if err != nil && (ctx.Err() != nil || !errors.As(err, &exit) || len(found) == 0) {
		return found, fmt.Errorf("%s did not come to its end: %w; %d scenarios did; it wrote\n%s",
			s.name, err, len(found), tail(out.String(), 4000))
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s ran nothing; it wrote\n%s", s.name, tail(out.String(), 4000))
	}
	return found, nil
}

// tail returns the end of s.
func tail(s string, most int) string { return s[max(0, len(s)-most):] }

// resultDir matches the directory that a suite makes for a scenario.
var resultDir = regexp.MustCompile(`^(?:server-)?(.+)-\d{4}-\d{2}-\d{2}T[0-9-]+Z$`)

// readResults reads what a suite wrote.
func readResults(dir string) (results, error) {
	found := results{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != "checks.json" {
			return err
		}
		match := resultDir.FindStringSubmatch(filepath.Base(filepath.Dir(path)))
		if match == nil {
			return fmt.Errorf("%s is not named as a scenario's result", path)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var checks []check
		if err := json.Unmarshal(data, &checks); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		found[match[1]] = append(found[match[1]], withoutInfo(checks)...)
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return results{}, nil // it wrote nothing
	}
	return found, err
}

// withoutInfo returns the checks that say something.
func withoutInfo(checks []check) []check {
	var kept []check
	for _, c := range checks {
		if !strings.EqualFold(c.Status, "INFO") {
			kept = append(kept, c)
		}
	}
	return kept
}
