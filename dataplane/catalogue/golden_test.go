package catalogue_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/leasehold/leasehold/dataplane/catalogue"
)

var update = flag.Bool("update", false, "rewrite the answers in testdata")

// TestGoldenCatalogues merges what the files of testdata say. In a file are
//
//	-- policy --          the policy, as JSON
//	-- files: tools --    what the upstream files lists; more pages have the same title;
//	                      a kind without a section is not known
//	-- ask --             a question in each line
//	-- answer --          what is listed, and the questions with their answers
//
// Questions are: route KIND NAME, guess KIND NAME, uri UPSTREAM URI, page KIND FROM
// ITEMS BYTES. With -update the answers are written.
func TestGoldenCatalogues(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("got %d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := newGolden(t, archive).answer()
			for i := range archive.Files {
				section := &archive.Files[i]
				if section.Name != "answer" {
					continue
				}
				if *update {
					section.Data = []byte(got)
					if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				if want := string(section.Data); got != want {
					t.Errorf("got\n%s\nwant\n%s", got, want)
				}
				return
			}
			t.Error("no section answer")
		})
	}
}

type golden struct {
	t      *testing.T
	policy *catalogue.Policy
	lists  []*catalogue.Lists
	ask    []string
}

type goldenPolicy struct {
	Keep      bool
	Separator string
	Upstreams []struct {
		Name                                 string
		Tools, Prompts, Resources, Templates catalogue.Selection
	}
}

func newGolden(t *testing.T, archive *txtar.Archive) *golden {
	t.Helper()
	g := &golden{t: t}
	pages := make(map[string][][]byte)
	for _, section := range archive.Files {
		switch section.Name {
		case "policy":
			g.policy = readPolicy(t, section.Data)
		case "ask":
			g.ask = strings.Split(strings.TrimSpace(string(section.Data)), "\n")
		default:
			pages[section.Name] = append(pages[section.Name], section.Data)
		}
	}
	for u := range g.policy.Len() {
		var lists *catalogue.Lists
		for k := range catalogue.Kinds {
			results := pages[g.policy.Name(u)+": "+k.String()]
			if results == nil {
				continue
			}
			list, err := catalogue.Parse(k, results...)
			if err != nil {
				t.Fatal(err)
			}
			if lists == nil {
				lists = &catalogue.Lists{}
			}
			lists[k] = list
		}
		g.lists = append(g.lists, lists)
	}
	return g
}

func readPolicy(t *testing.T, data []byte) *catalogue.Policy {
	t.Helper()
	var p goldenPolicy
	if err := json.Unmarshal(data, &p); err != nil {
		t.Fatal(err)
	}
	c := catalogue.Config{Separator: p.Separator}
	if p.Keep {
		c.Mode = catalogue.Keep
	}
	for _, u := range p.Upstreams {
		c.Upstreams = append(c.Upstreams, catalogue.Upstream{Name: u.Name, Select: [catalogue.Kinds]catalogue.Selection{u.Tools, u.Prompts, u.Resources, u.Templates}})
	}
	return catalogue.NewPolicy(c)
}

func (g *golden) answer() string {
	var out strings.Builder
	c := catalogue.Merge(g.policy, g.lists)
	for u, lists := range g.lists {
		for k := range catalogue.Kinds {
			if lists == nil || lists[k] == nil {
				continue
			}
			if n, why := lists[k].Dropped(); n > 0 {
				fmt.Fprintf(&out, "%s dropped %d %s: %v\n", g.policy.Name(u), n, k, why)
			}
		}
	}
	for k := range catalogue.Kinds {
		for i := range c.Len(k) {
			item, _, _ := c.Page(k, i, 1, 0)
			fmt.Fprintf(&out, "%s: %s\n", k, item)
		}
	}
	for _, one := range c.Conflicts().First {
		fmt.Fprintf(&out, "conflict: %s %q is %s, not %s\n", one.Kind, one.Name, g.target(one.Listed), g.target(one.Hidden))
	}
	for _, question := range g.ask {
		fmt.Fprintf(&out, "%s -> %s\n", question, g.reply(c, question))
	}
	return out.String()
}

func (g *golden) target(t catalogue.Target) string {
	return fmt.Sprintf("%s %q", g.policy.Name(t.Upstream), t.Name)
}

func (g *golden) reply(c *catalogue.Catalogue, question string) string {
	verb, rest, _ := strings.Cut(question, " ")
	what, rest, _ := strings.Cut(rest, " ")
	switch verb {
	case "route":
		return g.routed(c.Route(kindOf(g.t, what), rest))
	case "guess":
		return g.routed(g.policy.Guess(kindOf(g.t, what), rest))
	case "uri":
		for u := range g.policy.Len() {
			if g.policy.Name(u) == what {
				client := c.ClientURI(u, rest)
				return client + " -> " + g.routed(c.Route(catalogue.Resources, client))
			}
		}
	case "page":
		var from, items, bytes int
		if _, err := fmt.Sscan(rest, &from, &items, &bytes); err != nil {
			g.t.Fatal(err)
		}
		page, next, more := c.Page(kindOf(g.t, what), from, items, bytes)
		return fmt.Sprintf("%s next %d more %v", page, next, more)
	}
	g.t.Fatalf("not a question: %s", question)
	return ""
}

var verdicts = map[catalogue.Verdict]string{
	catalogue.Known: "known", catalogue.Hidden: "hidden", catalogue.Pending: "pending", catalogue.Unknown: "unknown",
}

func (g *golden) routed(target catalogue.Target, verdict catalogue.Verdict) string {
	if verdict == catalogue.Unknown {
		return verdicts[verdict]
	}
	return verdicts[verdict] + " " + g.target(target)
}

func kindOf(t *testing.T, name string) catalogue.Kind {
	t.Helper()
	for k := range catalogue.Kinds {
		if strings.TrimPrefix(k.String(), "resource ") == name {
			return k
		}
	}
	t.Fatalf("no kind %q", name)
	return 0
}
