package manifest

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestGatewaysGolden reads each file of testdata and compares what was read,
// and what was wrong with it, with the file beside it.
func TestGatewaysGolden(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.in.*")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no inputs: %v", err)
	}
	for _, input := range inputs {
		t.Run(filepath.Base(input), func(t *testing.T) {
			data, err := os.ReadFile(input)
			if err != nil {
				t.Fatal(err)
			}
			got := describe(t, data)
			golden := input[:strings.Index(input, ".in.")] + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func describe(t *testing.T, data []byte) string {
	t.Helper()
	var out bytes.Buffer
	gateways, err := Gateways(data)
	for _, gateway := range gateways {
		if err := WriteJSON(&out, gateway); err != nil {
			t.Fatal(err)
		}
	}
	if err != nil {
		fmt.Fprintf(&out, "error: %v\n", err)
	}
	return out.String()
}

func TestYAMLOfGetCanBeAppliedAgain(t *testing.T) {
	gateways := []*leaseholdv1.Gateway{full("gateways/a"), full("gateways/b"), {Name: "gateways/c"}}
	var out bytes.Buffer
	if err := WriteYAML(&out, gateways...); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"transport: STREAMABLE_HTTP\n", "revision: 9007199254740993\n", "---\n", "idle_timeout: 1800s\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("YAML lacks %q:\n%s", want, out.String())
		}
	}
	if !strings.HasPrefix(out.String(), "name: gateways/a\ndescription: ") {
		t.Errorf("fields are not in the order of the proto:\n%s", out.String())
	}
	again, err := Gateways(out.Bytes())
	if err != nil || len(again) != len(gateways) {
		t.Fatalf("read again: got %d gateways, %v", len(again), err)
	}
	for i, gateway := range gateways {
		want := proto.CloneOf(gateway)
		want.Status, want.CreateTime, want.UpdateTime = nil, nil, nil
		if !proto.Equal(again[i], want) {
			t.Errorf("gateway %d: got %v, want %v", i, again[i], want)
		}
	}
}

func TestJSONOfGetCanBeAppliedAgain(t *testing.T) {
	var out bytes.Buffer
	if err := WriteJSON(&out, &leaseholdv1.ListGatewaysResponse{Gateways: []*leaseholdv1.Gateway{full("gateways/a")}}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), `"transport": "TRANSPORT_STREAMABLE_HTTP"`) || !strings.Contains(out.String(), `"create_time"`) {
		t.Errorf("not proto JSON with the proto's names:\n%s", out.String())
	}
	again, err := Gateways(out.Bytes())
	if err != nil || len(again) != 1 || again[0].GetUpstreams()[0].GetUrl() != "http://127.0.0.1:1/mcp" {
		t.Errorf("read again: got %v, %v", again, err)
	}
}

func TestEnumsOfEveryMessageHaveTheirPrefixTakenOff(t *testing.T) {
	session := &leaseholdv1.Session{
		Name: "gateways/a/sessions/b", Epoch: 3, Class: leaseholdv1.Class_CLASS_RESUMABLE,
		End: &leaseholdv1.SessionEnd{Reason: leaseholdv1.EndReason_END_REASON_IDLE},
	}
	var out bytes.Buffer
	if err := WriteYAML(&out, session); err != nil {
		t.Fatal(err)
	}
	want := "name: gateways/a/sessions/b\nepoch: 3\nclass: RESUMABLE\nend:\n  reason: IDLE\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func full(name string) *leaseholdv1.Gateway {
	return &leaseholdv1.Gateway{
		Name: name, Description: "a: \"text\"\n--- with lines\n", Labels: map[string]string{"on": "yes", "n": "1"},
		Upstreams:  []*leaseholdv1.Upstream{{Name: "u", Url: "http://127.0.0.1:1/mcp", Transport: leaseholdv1.Transport_TRANSPORT_STREAMABLE_HTTP}},
		Session:    &leaseholdv1.SessionPolicy{IdleTimeout: durationpb.New(1800e9)},
		Etag:       "abc",
		CreateTime: timestamppb.New(timestamppb.Now().AsTime()), UpdateTime: timestamppb.Now(),
		Status: &leaseholdv1.GatewayStatus{Revision: 9007199254740993, WorkersApplied: 2, WorkersTotal: 2, Sessions: 7},
	}
}

// FuzzGateways checks that no input makes it panic, and that what it read can be
// written and read again.
func FuzzGateways(f *testing.F) {
	inputs, err := filepath.Glob("testdata/*.in.*")
	if err != nil {
		f.Fatal(err)
	}
	for _, input := range inputs {
		data, err := os.ReadFile(input)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		gateways, err := Gateways(data)
		if err != nil || len(gateways) == 0 {
			return
		}
		var out bytes.Buffer
		if err := WriteYAML(&out, gateways...); err != nil {
			t.Fatal(err)
		}
		again, err := Gateways(out.Bytes())
		if err != nil {
			t.Fatalf("cannot read what was written: %v\n%s", err, out.String())
		}
		for i := range gateways {
			if !proto.Equal(gateways[i], again[i]) {
				t.Errorf("got %v, want %v", again[i], gateways[i])
			}
		}
	})
}
