package dataplane_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite what testdata/conversations say that arrives")

// TestConversationsKeepTheirBytes plays the conversations of testdata through the
// owner of a session, through another worker, and through both by turns. What the
// upstream and the client get must be what the files say, byte for byte; and that
// must be what the other end sent, but for the differences that the files name.
func TestConversationsKeepTheirBytes(t *testing.T) {
	files, err := filepath.Glob("testdata/conversations/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("got %d conversations, %v", len(files), err)
	}
	p, u := startPlane(t), startScripted(t)
	p.setGateway("g", u.URL, nil)
	owner, other := startWorker(t, p), startWorker(t, p)
	for _, file := range files {
		for _, way := range []struct {
			name string
			via  []*worker
		}{{"owner", []*worker{owner}}, {"forwarded", []*worker{other}}, {"by turns", []*worker{other, owner}}} {
			t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar")+"/"+way.name, func(t *testing.T) {
				c := readConversation(t, file)
				pl := &player{tb: t, client: newClient(t, "g"), upstream: u, owner: owner, via: way.via, version: c.version, exchanges: map[string]*conversed{}}
				pl.play(c)
				if *update && way.name == "owner" {
					if err := os.WriteFile(file, c.text(pl.got, pl.differences()), 0o644); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	}
}

// conversation is a file: a description, the protocol version, the differences
// between what one end sends and the other gets, and what happens.
type conversation struct {
	about   string
	version string
	differs string
	steps   []step
}

// step is a section of a file, such as
//
//	-- client sends call --
//
// with what is sent or must arrive. A step's words are in order: who, what it
// does, and the name of the exchange (a request and its answer) that it is about.
// See testdata/conversations/README.md.
type step struct {
	who, does, exchange string
	text                string
}

var heading = regexp.MustCompile(`(?m)^-- (client|upstream) (sends|gets|says) (\S+) --\n`)

// In files, what editors or Git may change or hide is written with other characters.
var (
	toFile   = strings.NewReplacer("\r", "␍")
	fromFile = strings.NewReplacer("␍", "\r")
)

func readConversation(t *testing.T, file string) *conversation {
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	heads := heading.FindAllStringSubmatchIndex(text, -1)
	if len(heads) == 0 {
		t.Fatalf("%s has no step", file)
	}
	c := &conversation{}
	for line := range strings.Lines(text[:heads[0][0]]) {
		switch key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": "); key {
		case "version":
			c.version = value
		case "differs":
			c.differs = value
		default:
			c.about += line
		}
	}
	for i, h := range heads {
		end := len(text)
		if i+1 < len(heads) {
			end = heads[i+1][0]
		}
		c.steps = append(c.steps, step{text[h[2]:h[3]], text[h[4]:h[5]], text[h[6]:h[7]], fromFile.Replace(text[h[1]:end])})
	}
	return c
}

// text is the file with what arrived, one text per step; those of steps that send
// are empty.
func (c *conversation) text(got []string, differs string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n\nversion: %s\ndiffers: %s\n\n", strings.TrimSpace(c.about), c.version, differs)
	for i, s := range c.steps {
		if s.does == "gets" {
			s.text = got[i]
		}
		fmt.Fprintf(&b, "-- %s %s %s --\n%s", s.who, s.does, s.exchange, toFile.Replace(s.text))
	}
	return b.Bytes()
}
