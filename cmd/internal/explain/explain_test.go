package explain

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/leasehold/leasehold/cmd/internal/usage"
	_ "github.com/leasehold/leasehold/gen/leasehold/v1" // what the image is compared with
)

func explained(t *testing.T, path string) string {
	t.Helper()
	var out strings.Builder
	if err := Write(&out, path); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestTheImageIsTheAPI fails when the proto was changed and `make generate` made
// only half of it.
func TestTheImageIsTheAPI(t *testing.T) {
	files, err := api()
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		compared++
		generated, err := protoregistry.GlobalFiles.FindFileByPath(file.Path())
		if err != nil {
			t.Fatal(err)
		}
		want := protodesc.ToFileDescriptorProto(generated)
		got := proto.CloneOf(protodesc.ToFileDescriptorProto(file))
		for _, one := range []*descriptorpb.FileDescriptorProto{got, want} {
			one.SourceCodeInfo, one.Options = nil, nil
		}
		if !proto.Equal(got, want) {
			t.Errorf("%s: the image is not what was generated; run make generate", file.Path())
		}
		return true
	})
	if compared != len(kinds) {
		t.Errorf("compared %d files, want %d", compared, len(kinds))
	}
}

func TestExplainTellsTypesAndWords(t *testing.T) {
	for path, wants := range map[string][]string{
		"gateway":                      {"gateway <Gateway>\n\n  Gateway is a named MCP endpoint", "  upstreams     list of Upstream  ", "  labels        map of string to string  "},
		"gw.upstreams":                 {"gateway.upstreams <list of Upstream>\n\n  The MCP servers behind the gateway", "\nUpstream\n", "  url                      string                   Where"},
		"gateway.upstreams[0].url":     {"gateway.upstreams.url <string>\n\n  Where the server is: an absolute http or https URL without user info or\n  fragment, at most"},
		"gateways.session.idleTimeout": {"gateway.session.idle_timeout <Duration>\n\n  A session without a request"},
		"gateway.upstreams.transport":  {"  STREAMABLE_HTTP  MCP streamable HTTP"},
		"session.upstreams.class":      {"session.upstreams.class <Class>", "  PINNED       The session ends with its worker."},
		"session.activity.calls":       {"session.activity.calls <uint64>\n\n  Requests since this owner has the session."},
		"worker.applied_revision":      {"worker.applied_revision <int64>\n"},
	} {
		got := explained(t, path)
		for _, want := range wants {
			if !strings.Contains(got, want) {
				t.Errorf("%s lacks %q:\n%s", path, want, got)
			}
		}
	}
}

func TestEveryFieldHasWordsAndFitsATerminal(t *testing.T) {
	paths := Kinds()
	for i := 0; i < len(paths); i++ {
		got := explained(t, paths[i])
		for line := range strings.Lines(got) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
				t.Errorf("%s: line of %d characters: %s", paths[i], n, line)
			}
		}
		if strings.Count(got, "\n") < 3 {
			t.Errorf("%s: has no words:\n%s", paths[i], got)
		}
		paths = append(paths, Complete(paths[i]+".")...)
	}
	if len(paths) < 50 {
		t.Errorf("there are %d paths, want all fields of all resources", len(paths))
	}
}

func TestAPathThatLeadsNowhereSaysWhatWasMeant(t *testing.T) {
	for path, want := range map[string]string{
		"gatway":                `did you mean "gateway"?`,
		"gateway.upstream":      `gateway has no field "upstream"; did you mean "upstreams"?`,
		"gateway.upstreams.ulr": `did you mean "url"?`,
		"gateway.labels.a":      "gateway.labels has no fields: it is map of string to string",
		"gateway.create_time.s": "gateway.create_time has no fields: it is Timestamp",
		"gateway..name":         "gateway has no field",
		"":                      "there are gateway, session, worker",
	} {
		for _, write := range []func() error{
			func() error { return Write(&strings.Builder{}, path) },
			func() error { return WriteTree(&strings.Builder{}, path) },
		} {
			if err := write(); err == nil || !strings.Contains(err.Error(), want) || !usage.Is(err) {
				t.Errorf("%q: got %v, want a mistake of usage with %q", path, err, want)
			}
		}
	}
}

func TestATreeHasAllNames(t *testing.T) {
	var out strings.Builder
	if err := WriteTree(&out, "gateway"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\n  upstreams <list of Upstream>\n    name <string>\n    url <string>\n", "\n    workers_applied <int32>\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the tree lacks %q:\n%s", want, out.String())
		}
	}
}

func TestPathsAreCompleted(t *testing.T) {
	for begun, want := range map[string][]string{
		"g":                    {"gateway"},
		"":                     {"gateway", "session", "worker"},
		"gateway.upstreams.tr": {"gateway.upstreams.transport"},
		"gateway.session.":     {"gateway.session.idle_timeout", "gateway.session.absolute_lifetime", "gateway.session.on_upstream_lost"},
		"gateway.name.":        nil,
		"nothing.":             nil,
	} {
		if got := Complete(begun); !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", begun, got, want)
		}
	}
}
