package catalogue_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/yosida95/uritemplate/v3"
	"pgregory.net/rapid"

	"github.com/leasehold/leasehold/dataplane/catalogue"
	"github.com/leasehold/leasehold/dataplane/mcp"
)

// world is a policy, what its upstreams list, and the catalogue of that.
type world struct {
	t         *rapid.T
	config    catalogue.Config
	policy    *catalogue.Policy
	offers    []map[catalogue.Kind][]offer // by upstream; nil for a kind that is not known
	catalogue *catalogue.Catalogue
}

// offer is an item as its upstream lists it.
type offer struct {
	name string
	raw  string
}

// What items, upstreams and filters are called: few words, so that they meet.
var (
	upstreamNames = []string{"a", "b", "a-b", "f", "file"}
	separators    = []string{"", "_", "-", "a", ".", "b-"}
	itemNames     = []string{"a", "b", "a_b", "b-a", "-b", "x", "a*", "é", "a b", `q"\`, "b_a_b", "\U0001f600", "a-b_x"}
	uris          = []string{"file:///a", "file:///a/b", "file:///a/../c", "FILE:///c", "a+file:///a", "a+a+x:y", "+x", "a+", "x:y", "x:y/z", "x:y?q", "x:%79", "y://é", "b", "file+x:y"}
	templates     = []string{"file:///{p}", "file:///{+p}", "file:///a/{p}", "{+u}", "x:{p}", "x:{p}/z", "x:y{?q}", "a+x:{p}", "{p}+x", "x:y", "fi{p}", "y://{a,b}", "x:{", "}"}
	patternTexts  = []string{"*", "a*", "*b", "*a*", "a_*b", "file:///*", "*:y", "x*", "*z"}
	shapes        = []string{`{"K":N}`, `{ "K" : N , "description":"d", "x":[1e999,{"K":"other"}] }`, `{"description":null,"z":{"description":1},"K":N,"K2":-0.0}`, `{"_meta":{"k":12345678901234567890},"K":N}`}
)

func namesOf(k catalogue.Kind) []string {
	switch k {
	case catalogue.Resources:
		return uris
	case catalogue.Templates:
		return templates
	}
	return itemNames
}

func drawWorld(t *rapid.T) *world {
	w := &world{t: t}
	w.config.Mode = rapid.SampledFrom([]catalogue.Mode{catalogue.Prefix, catalogue.Keep}).Draw(t, "mode")
	w.config.Separator = rapid.SampledFrom(separators).Draw(t, "separator")
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(upstreamNames), 1, 4, rapid.ID[string]).Draw(t, "upstreams") {
		u := catalogue.Upstream{Name: name}
		for k := range catalogue.Kinds {
			u.Select[k] = drawSelection(t, k)
		}
		w.config.Upstreams = append(w.config.Upstreams, u)
	}
	w.policy = catalogue.NewPolicy(w.config)
	var lists []*catalogue.Lists
	for range w.config.Upstreams {
		list, offers := drawLists(t)
		lists, w.offers = append(lists, list), append(w.offers, offers)
	}
	w.catalogue = catalogue.Merge(w.policy, lists)
	return w
}

func drawSelection(t *rapid.T, k catalogue.Kind) catalogue.Selection {
	if rapid.IntRange(0, 2).Draw(t, "selects") == 0 {
		return catalogue.Selection{}
	}
	pattern := rapid.SampledFrom(slices.Concat(patternTexts, namesOf(k)))
	s := catalogue.Selection{
		Include: rapid.SliceOfN(pattern, 0, 2).Draw(t, "include"), Exclude: rapid.SliceOfN(pattern, 0, 2).Draw(t, "exclude"),
		Overrides: map[string]catalogue.Override{},
	}
	for _, name := range rapid.SliceOfN(rapid.SampledFrom(namesOf(k)), 0, 3).Draw(t, "overridden") {
		s.Overrides[name] = catalogue.Override{
			Name:        rapid.SampledFrom([]string{"", "", "a", "x", "a_b", "new"}).Draw(t, "new name"),
			Description: rapid.SampledFrom([]string{"", "new \"one\"\n"}).Draw(t, "new description"),
			Hide:        rapid.IntRange(0, 3).Draw(t, "hide") == 0,
		}
	}
	return s
}

func drawLists(t *rapid.T) (*catalogue.Lists, map[catalogue.Kind][]offer) {
	lists, all := &catalogue.Lists{}, map[catalogue.Kind][]offer{}
	for k := range catalogue.Kinds {
		if rapid.IntRange(0, 7).Draw(t, "unknown") == 0 {
			continue
		}
		offers := []offer{}
		var pages [][]byte
		for range rapid.IntRange(1, 2).Draw(t, "pages") {
			names := rapid.SliceOfN(rapid.SampledFrom(namesOf(k)), 0, 5).Draw(t, "names")
			var items []string
			for _, name := range names {
				raw := strings.NewReplacer(`"K"`, `"`+k.Key()+`"`, "N", drawToken(t, name)).Replace(rapid.SampledFrom(shapes).Draw(t, "shape"))
				items = append(items, raw)
				if !slices.ContainsFunc(offers, func(o offer) bool { return o.name == name }) {
					offers = append(offers, offer{name, raw})
				}
			}
			pages = append(pages, fmt.Appendf(nil, `{"%s": [%s ], "nextCursor":"x"}`, k.Member(), strings.Join(items, " , ")))
		}
		list, err := catalogue.Parse(k, pages...)
		if err != nil {
			t.Fatal(err)
		}
		if list.Len() != len(offers) {
			t.Fatalf("got %d items, want %d", list.Len(), len(offers))
		}
		lists[k], all[k] = list, offers
	}
	return lists, all
}

// drawToken spells name as a JSON string in one of several ways.
func drawToken(t *rapid.T, name string) string {
	token := string(mcp.AppendQuoted(nil, name))
	if rapid.Bool().Draw(t, "escape") {
		token = strings.NewReplacer("a", `\u0061`, "/", `\/`, "é", `\u00E9`, "\U0001f600", `\ud83d\ude00`).Replace(token)
	}
	return token
}

// shown is what the filters say, told in another way than the code does it. Spellings
// of URIs are not looked at.
func (w *world) shown(k catalogue.Kind, u int, name string) bool {
	s := w.config.Upstreams[u].Select[k]
	is := func(pattern string) bool {
		quoted := strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `(?s:.*)`)
		return regexp.MustCompile(`\A` + quoted + `\z`).MatchString(name)
	}
	return !s.Overrides[name].Hide && !slices.ContainsFunc(s.Exclude, is) && (len(s.Include) == 0 || slices.ContainsFunc(s.Include, is))
}

// listed are the items of a kind as a client gets them, page by page.
func (w *world) listed(k catalogue.Kind) []json.RawMessage {
	var all []json.RawMessage
	from := 0
	for {
		most, size := rapid.IntRange(1, 4).Draw(w.t, "page size"), rapid.IntRange(0, 300).Draw(w.t, "page bytes")
		page, next, more := w.catalogue.Page(k, from, most, size)
		var items []json.RawMessage
		if err := json.Unmarshal(fmt.Appendf(nil, "[%s]", page), &items); err != nil {
			w.t.Fatalf("%s: %v", page, err)
		}
		if len(items) > most || len(items) != next-from || len(page) > size && len(items) > 1 || more && len(items) == 0 {
			w.t.Fatalf("asked from %d for %d items in %d bytes: got %d in %d, next %d, more %v", from, most, size, len(items), len(page), next, more)
		}
		all, from = append(all, items...), next
		if !more {
			break
		}
	}
	if len(all) != w.catalogue.Len(k) {
		w.t.Fatalf("got %d %s, want %d", len(all), k, w.catalogue.Len(k))
	}
	return all
}

func nameOf(t *rapid.T, k catalogue.Kind, raw []byte) string {
	token, _ := mcp.Lookup(raw, k.Key())
	name, ok := mcp.Unquote(token)
	if !ok {
		t.Fatalf("no name in %s", raw)
	}
	return name
}

func TestEveryListedItemLeadsBackToWhereItCameFrom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		unlisted := 0
		for k := range catalogue.Kinds {
			seen := map[string]bool{}
			found := map[catalogue.Target]bool{}
			place := -1
			for _, raw := range w.listed(k) {
				name := nameOf(t, k, raw)
				if seen[name] {
					t.Fatalf("%s %q is listed twice", k, name)
				}
				seen[name] = true
				target, verdict := w.catalogue.Route(k, name)
				if verdict != catalogue.Known || found[target] {
					t.Fatalf("%s %q: got %v, verdict %d, which is known as another: %v", k, name, target, verdict, found[target])
				}
				found[target] = true
				i := slices.IndexFunc(w.offers[target.Upstream][k], func(o offer) bool { return o.name == target.Name })
				if i < 0 {
					t.Fatalf("%s %q leads to %v, which is not listed there", k, name, target)
				}
				if at := target.Upstream<<16 | i; at <= place {
					t.Fatalf("%s %q is out of order", k, name)
				} else {
					place = at
				}
				w.sameBytes(k, raw, w.offers[target.Upstream][k][i].raw, target)
				w.rightName(k, name, target)
				if !w.shown(k, target.Upstream, target.Name) {
					t.Fatalf("%s %q is listed though a filter hides it", k, name)
				}
			}
			for u := range w.offers {
				for _, o := range w.offers[u][k] {
					if !found[catalogue.Target{Upstream: u, Name: o.name}] && w.policy.Shows(k, u, o.name) {
						unlisted++
					}
				}
			}
		}
		if all := w.catalogue.Conflicts(); all.Total != unlisted || len(all.First) != unlisted {
			t.Fatalf("%d items are not listed, of which conflicts tell %+v", unlisted, all)
		}
	})
}

// sameBytes checks that a listed item is what came but for its name and, where it is
// overridden, its description.
func (w *world) sameBytes(k catalogue.Kind, listed []byte, came string, target catalogue.Target) {
	paths := [][]string{{k.Key()}}
	description := w.config.Upstreams[target.Upstream].Select[k].Overrides[target.Name].Description
	if description != "" {
		token, _ := mcp.Lookup(listed, "description")
		if got, _ := mcp.Unquote(token); got != description {
			w.t.Fatalf("got %s, want the description %q", listed, description)
		}
		paths = append(paths, []string{"description"})
		if _, ok := mcp.Lookup([]byte(came), "description"); !ok {
			came = strings.TrimSuffix(came, "}") + `,"description":0}`
		}
	}
	blank := func(raw []byte) []byte {
		out, ok := mcp.Splice(nil, raw, paths, func(int, []byte) []byte { return []byte("0") })
		if !ok {
			w.t.Fatalf("not spliced: %s", raw)
		}
		return out
	}
	if got, want := blank(listed), blank([]byte(came)); !bytes.Equal(got, want) {
		w.t.Fatalf("got %s, want %s", got, want)
	}
}

func (w *world) rightName(k catalogue.Kind, name string, target catalogue.Target) {
	want := []string{target.Name, w.config.Upstreams[target.Upstream].Name + "+" + target.Name}
	if k == catalogue.Tools || k == catalogue.Prompts {
		want = []string{w.policy.ClientName(k, target.Upstream, target.Name)}
		candidates := w.policy.Candidates(k, name)
		if guess, verdict := w.policy.Guess(k, name); verdict != catalogue.Pending || !slices.Contains(candidates, target) || guess != candidates[0] {
			w.t.Fatalf("%s %q: candidates %v, guessed %v, verdict %d; want %v", k, name, candidates, guess, verdict, target)
		}
	}
	if !slices.Contains(want, name) {
		w.t.Fatalf("%s %v is called %q, want one of %q", k, target, name, want)
	}
}

func TestWhatAFilterHidesIsNotFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		for k := range catalogue.Kinds {
			for u, upstream := range w.config.Upstreams {
				for _, own := range namesOf(k) {
					if w.shown(k, u, own) {
						continue
					}
					for _, name := range []string{own, upstream.Name + "+" + own, w.policy.ClientName(k, u, own), upstream.Name + "_" + own} {
						for _, route := range []func(catalogue.Kind, string) (catalogue.Target, catalogue.Verdict){w.catalogue.Route, w.policy.Guess} {
							target, verdict := route(k, name)
							if target.Upstream == u && target.Name == own && (verdict == catalogue.Known || verdict == catalogue.Pending) {
								t.Fatalf("%s %q of %q is found as %q, verdict %d", k, own, upstream.Name, name, verdict)
							}
						}
					}
				}
			}
		}
	})
}

func TestURIsThatFitAHiddenTemplateAreNotFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		for u, upstream := range w.config.Upstreams {
			for _, o := range w.offers[u][catalogue.Templates] {
				if w.shown(catalogue.Templates, u, o.name) {
					continue
				}
				for _, uri := range append(drawExpansions(t, o.name), uris...) {
					if own, err := uritemplate.New(o.name); err != nil || own.Match(uri) == nil {
						continue
					}
					listed := slices.ContainsFunc(w.offers[u][catalogue.Resources], func(o offer) bool { return o.name == uri })
					for _, name := range []string{uri, upstream.Name + "+" + uri} {
						target, verdict := w.catalogue.Route(catalogue.Resources, name)
						if target.Upstream == u && target.Name == uri && verdict == catalogue.Known && !listed {
							t.Fatalf("%q, which fits %q, is found as %q", uri, o.name, name)
						}
					}
				}
			}
		}
	})
}

func TestEveryExpansionOfAListedTemplateLeadsToItsUpstream(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		for _, raw := range w.listed(catalogue.Templates) {
			name := nameOf(t, catalogue.Templates, raw)
			of, _ := w.catalogue.Route(catalogue.Templates, name)
			mark := strings.TrimSuffix(name, of.Name)
			for _, uri := range drawExpansions(t, name) {
				target, verdict := w.catalogue.Route(catalogue.Resources, uri)
				if target.Upstream != of.Upstream || target.Name != strings.TrimPrefix(uri, mark) || verdict == catalogue.Unknown {
					t.Fatalf("%q, which fits %q of %d, leads to %v, verdict %d", uri, name, of.Upstream, target, verdict)
				}
			}
		}
	})
}

func drawExpansions(t *rapid.T, name string) []string {
	parsed, err := uritemplate.New(name)
	if err != nil {
		return nil
	}
	var all []string
	for range 3 {
		values := uritemplate.Values{}
		for _, variable := range parsed.Varnames() {
			values.Set(variable, uritemplate.String(rapid.SampledFrom([]string{"", "a", "b", "a/b", "x", "y", "file", "é", "a+x", "../c", "le:///a"}).Draw(t, "value")))
		}
		uri, err := parsed.Expand(values)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, uri)
	}
	return all
}

func TestURIsOfResultsMapBackExactly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		some := rapid.OneOf(rapid.SampledFrom(uris), rapid.String(), rapid.StringMatching(`[abf+:/.x]{0,9}`))
		for u := range w.config.Upstreams {
			uri := some.Draw(t, "uri")
			client := w.catalogue.ClientURI(u, uri)
			got, verdict := w.catalogue.Route(catalogue.Resources, client)
			if got != (catalogue.Target{Upstream: u, Name: uri}) || verdict == catalogue.Unknown {
				t.Fatalf("%q of %d is %q, which leads to %v, verdict %d", uri, u, client, got, verdict)
			}
			if client != uri && client != w.config.Upstreams[u].Name+"+"+uri {
				t.Fatalf("%q of %d is %q", uri, u, client)
			}
		}
	})
}

func TestHashesChangeExactlyWithTheLists(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		one, other := drawWorld(t), drawWorld(t)
		for k := range catalogue.Kinds {
			a, _, _ := one.catalogue.Page(k, 0, 1<<20, 1<<20)
			b, _, _ := other.catalogue.Page(k, 0, 1<<20, 1<<20)
			if same := one.catalogue.Hash(k) == other.catalogue.Hash(k); same != bytes.Equal(a, b) {
				t.Fatalf("hashes are the same: %v, of %s and %s", same, a, b)
			}
		}
	})
}
