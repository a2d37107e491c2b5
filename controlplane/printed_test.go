package controlplane_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// bearers are the Go types of the messages that may have the value of a secret or of a
// key in them: a generated message prints all that it has.
func bearers() map[string]bool {
	secret := map[protoreflect.Name]bool{"Secret": true, "SecretValues": true, "Key": true}
	files := []protoreflect.FileDescriptor{
		leaseholdv1.File_leasehold_v1_gateway_proto, leaseholdv1.File_leasehold_v1_stored_proto,
		leaseholdv1.File_leasehold_v1_control_proto, leaseholdv1.File_leasehold_v1_peer_proto,
	}
	for grown := true; grown; {
		grown = false
		for _, file := range files {
			messages := file.Messages()
			for i := range messages.Len() {
				m := messages.Get(i)
				for j := range m.Fields().Len() {
					field := m.Fields().Get(j).Message()
					if field != nil && secret[field.Name()] && !secret[m.Name()] {
						secret[m.Name()], grown = true, true
					}
				}
			}
		}
	}
	names := make(map[string]bool)
	for name := range secret {
		names[string(name)] = true
	}
	return names
}

// TestNoMessageWithSecretsIsPrinted finds the places that could print one: what is
// given to fmt, to a logger or to an encoder of text, and calls of String.
func TestNoMessageWithSecretsIsPrinted(t *testing.T) {
	found, calls := printed(t, "../controlplane/...", "../dataplane/...", "../cmd/...")
	for _, at := range found {
		t.Errorf("%s prints a message that may have a secret in it", at)
	}
	if calls < 500 {
		t.Errorf("%d calls that print were looked at, want hundreds", calls)
	}
	bad, _ := printed(t, "./testdata/printed")
	if len(bad) != 6 {
		t.Errorf("in testdata/printed found %q, want all 6", bad)
	}
}

func printed(t *testing.T, patterns ...string) (found []string, calls int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles,DepOnly"}, patterns...)...)
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	type compiled struct {
		ImportPath, Dir, Export string
		GoFiles                 []string
		DepOnly                 bool
	}
	exports, named := map[string]string{}, []compiled(nil)
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p compiled
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
		if !p.DepOnly {
			named = append(named, p)
		}
	}
	fset := token.NewFileSet()
	imports := importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	secret := bearers()
	for _, p := range named {
		var files []*ast.File
		for _, name := range p.GoFiles {
			file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, file)
		}
		info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}}
		if _, err := (&types.Config{Importer: imports}).Check(p.ImportPath, fset, files, info); err != nil {
			t.Fatalf("check %s: %v", p.ImportPath, err)
		}
		for _, file := range files {
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				function, ok := callee(info, call)
				if !ok || !prints(function, p.ImportPath) {
					return true
				}
				calls++
				args := call.Args
				if selector, ok := call.Fun.(*ast.SelectorExpr); ok && function.Name() == "String" {
					args = []ast.Expr{selector.X}
				}
				for _, arg := range args {
					if bears(info.TypeOf(arg), secret, 0) {
						found = append(found, fset.Position(call.Pos()).String())
						break
					}
				}
				return true
			})
		}
	}
	return found, calls
}

func callee(info *types.Info, call *ast.CallExpr) (*types.Func, bool) {
	name, ok := call.Fun.(*ast.Ident)
	if selector, is := call.Fun.(*ast.SelectorExpr); is {
		name, ok = selector.Sel, true
	}
	if !ok {
		return nil, false
	}
	function, ok := info.Uses[name].(*types.Func)
	return function, ok && function.Pkg() != nil
}

// prints reports whether a function makes text of what it is given. The command line
// prints messages on purpose, which it has from the API, without secrets.
func prints(function *types.Func, by string) bool {
	switch path := function.Pkg().Path(); path {
	case "fmt", "log", "log/slog", "github.com/hashicorp/go-hclog", "google.golang.org/protobuf/encoding/prototext":
		return true
	case "encoding/json", "google.golang.org/protobuf/encoding/protojson":
		return !strings.Contains(by, "/cmd/")
	default:
		return function.Name() == "String" && strings.HasSuffix(path, "/gen/leasehold/v1")
	}
}

// bears reports whether a value of type t may be, or have in it, such a message.
func bears(t types.Type, secret map[string]bool, depth int) bool {
	if t == nil || depth > 8 {
		return false
	}
	switch t := types.Unalias(t).(type) {
	case *types.Pointer:
		return bears(t.Elem(), secret, depth+1)
	case *types.Slice:
		return bears(t.Elem(), secret, depth+1)
	case *types.Array:
		return bears(t.Elem(), secret, depth+1)
	case *types.Map:
		return bears(t.Key(), secret, depth+1) || bears(t.Elem(), secret, depth+1)
	case *types.Struct:
		for i := range t.NumFields() {
			if bears(t.Field(i).Type(), secret, depth+1) {
				return true
			}
		}
	case *types.Named:
		object := t.Obj()
		switch {
		case object.Pkg() == nil: // error
			return false
		case strings.HasSuffix(object.Pkg().Path(), "/gen/leasehold/v1"):
			return secret[object.Name()]
		case strings.HasPrefix(object.Pkg().Path(), "google.golang.org/protobuf"):
			return object.Name() == "Message" || object.Name() == "ProtoMessage"
		case types.NewMethodSet(t).Lookup(nil, "String") != nil || types.NewMethodSet(t).Lookup(nil, "Error") != nil:
			return false // it says itself what is printed
		}
		return strings.HasPrefix(object.Pkg().Path(), module) && bears(t.Underlying(), secret, depth+1)
	}
	return false
}
