package mcp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
)

const toolsCall = `{"jsonrpc":"2.0","id":17,"method":"tools/call","params":{"name":"get_weather","arguments":{"city":"San Francisco","units":"metric","days":3,"verbose":true},"_meta":{"progressToken":"tok-17","trace":"0"}}}`

// callOf returns a tools/call of about n bytes whose arguments are a list of
// small objects with text in them.
func callOf(n int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"jsonrpc":"2.0","id":17,"method":"tools/call","params":{"name":"store","arguments":{"rows":[`)
	for i := 0; b.Len() < n-100; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"id":%d,"title":"row %d","price":%d.25,"tags":["a","b"],"text":"a line of text,\nand \"another\" one","ok":true}`, i, i, i)
	}
	b.WriteString(`]}}}`)
	return b.Bytes()
}

func BenchmarkParse(b *testing.B) {
	for name, body := range map[string][]byte{
		"call-200B":   []byte(toolsCall),
		"call-4KiB":   callOf(4 << 10),
		"call-1MiB":   callOf(1 << 20),
		"base64-1MiB": []byte(`{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"image","data":"` + strings.Repeat("QUJD", 1<<18) + `"}]}}`),
		"prose-1MiB":  []byte(`{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"` + strings.Repeat(`Über den Wolken\n`, 1<<16) + `"}]}}`),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if env, err := Parse(body, Limits{}); err != nil || env.First().Kind == 0 {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkStandardLibrary is what Parse is measured against.
func BenchmarkStandardLibrary(b *testing.B) {
	for name, body := range map[string][]byte{"call-200B": []byte(toolsCall), "call-1MiB": callOf(1 << 20)} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				var m struct {
					Method             string
					ID, Params, Result json.RawMessage
				}
				if err := json.Unmarshal(body, &m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkEventReader(b *testing.B) {
	small := "event: message\nid: s1_1\ndata: " + toolsCall + "\n\n"
	for name, stream := range map[string]string{
		"small": strings.Repeat(small, 1000),
		"crlf":  strings.Repeat(strings.ReplaceAll(small, "\n", "\r\n"), 1000),
		"1MiB":  string(AppendEvent(nil, callOf(1<<20))),
	} {
		b.Run(name, func(b *testing.B) {
			src := strings.NewReader(stream)
			r := NewEventReader(src, 0)
			events := 0
			b.SetBytes(int64(len(stream)))
			b.ReportAllocs()
			for b.Loop() {
				src.Reset(stream)
				r.Reset(src)
				for events = 0; ; events++ {
					ev, err := r.Next()
					if err == io.EOF {
						break
					}
					if err != nil || ev.Data(nil) == nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(events), "ns/event")
		})
	}
}

func BenchmarkSplice(b *testing.B) {
	result := []byte(`{"content":[{"type":"text","text":"` + strings.Repeat("some text, ", 400) + `"},{"type":"resource_link","uri":"file:///a","name":"a"}],"structuredContent":{"a":[1,2,3]}}`)
	uris := [][]string{{"content", Each, "uri"}, {"content", Each, "resource", "uri"}}
	var dst []byte
	b.SetBytes(int64(len(result)))
	b.ReportAllocs()
	for b.Loop() {
		dst, _ = Splice(dst[:0], result, uris, func(int, []byte) []byte { return []byte(`"u+file:///a"`) })
	}
}
