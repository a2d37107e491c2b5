package catalogue_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/leasehold/leasehold/dataplane/catalogue"
)

// big is ten upstreams of 100 tools, 100 resources and ten templates each.
func big(b *testing.B) (*catalogue.Policy, []*catalogue.Lists) {
	b.Helper()
	var c catalogue.Config
	var lists []*catalogue.Lists
	for u := range 10 {
		c.Upstreams = append(c.Upstreams, catalogue.Upstream{Name: fmt.Sprintf("upstream-%d", u)})
		l := &catalogue.Lists{}
		l[catalogue.Tools] = parsed(b, catalogue.Tools, toolsResult(100))
		l[catalogue.Prompts] = parsed(b, catalogue.Prompts)
		l[catalogue.Resources] = parsed(b, catalogue.Resources, itemsResult("resources", "uri", 100, fmt.Sprintf("u%d:///files/%%d", u)))
		l[catalogue.Templates] = parsed(b, catalogue.Templates, itemsResult("resourceTemplates", "uriTemplate", 10, fmt.Sprintf("u%d:///%%d/{path}", u)))
		lists = append(lists, l)
	}
	return catalogue.NewPolicy(c), lists
}

func parsed(b *testing.B, k catalogue.Kind, results ...[]byte) *catalogue.List {
	b.Helper()
	l, err := catalogue.Parse(k, results...)
	if err != nil {
		b.Fatal(err)
	}
	return l
}

func toolsResult(n int) []byte {
	schema := `{"type":"object","properties":{` + strings.Repeat(`"p":{"type":"string","description":"what it is for"},`, 6) + `"q":{}},"required":["p"]}`
	items := make([]string, n)
	for i := range items {
		items[i] = fmt.Sprintf(`{"name":"tool_%d","title":"Tool","description":"Does what tools of its kind do.","inputSchema":%s}`, i, schema)
	}
	return fmt.Appendf(nil, `{"tools":[%s]}`, strings.Join(items, ","))
}

func itemsResult(member, key string, n int, format string) []byte {
	items := make([]string, n)
	for i := range items {
		items[i] = fmt.Sprintf(`{"%s":"%s","name":"x"}`, key, fmt.Sprintf(format, i))
	}
	return fmt.Appendf(nil, `{"%s":[%s]}`, member, strings.Join(items, ","))
}

func BenchmarkParse100Tools(b *testing.B) {
	result := toolsResult(100)
	b.SetBytes(int64(len(result)))
	b.ReportAllocs()
	for b.Loop() {
		parsed(b, catalogue.Tools, result)
	}
}

func BenchmarkMerge10x100(b *testing.B) {
	p, lists := big(b)
	b.ReportAllocs()
	for b.Loop() {
		catalogue.Merge(p, lists)
	}
}

func BenchmarkPage(b *testing.B) {
	p, lists := big(b)
	c := catalogue.Merge(p, lists)
	b.ReportAllocs()
	for b.Loop() {
		if items, _, _ := c.Page(catalogue.Tools, 500, 1000, 1<<20); len(items) == 0 {
			b.Fatal("no items")
		}
	}
}

func BenchmarkRoute(b *testing.B) {
	p, lists := big(b)
	c := catalogue.Merge(p, lists)
	for _, tt := range []struct {
		what string
		kind catalogue.Kind
		name string
	}{
		{"tool", catalogue.Tools, "upstream-7_tool_42"},
		{"resource", catalogue.Resources, "u7:///files/42"},
		{"template", catalogue.Resources, "u7:///7/some"},
		{"marked", catalogue.Resources, "upstream-7+other:///7"},
		{"absent", catalogue.Tools, "upstream-7_nothing"},
	} {
		b.Run(tt.what, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.Route(tt.kind, tt.name)
			}
		})
	}
}
