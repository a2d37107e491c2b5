package canary

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

// rootKey is the file of the cluster's root key.
const rootKey = "root.key"

// search looks for secrets in places. In each it also has to find something that is
// there, by the same means, so that a place which was not really read is noticed.
type search struct {
	*drive
}

// in searches one place. Secrets whose names begin with except may be there.
func (s *search) in(place string, data []byte, proof, except string) {
	s.t.Helper()
	names := s.secrets.set.Find(data)
	for _, name := range names {
		switch {
		case strings.HasPrefix(name, "proof: "):
		case except != "" && strings.HasPrefix(name, except):
		default:
			s.t.Errorf("%s has the %s", place, name)
		}
	}
	if proof != "" && !slices.Contains(names, "proof: "+proof) {
		s.t.Errorf("%s: the search does not find %s, which is there", place, proof)
	}
}

// etcd searches every key and value at every revision that is still there.
func (s *search) etcd() {
	s.t.Helper()
	conn, err := s.Dial(strings.TrimPrefix(s.EtcdURL(0), "https://"), cluster.Operator)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(s.t.Context(), limit)
	defer cancel()
	all := []byte{0}
	now, err := etcdserverpb.NewKVClient(conn).Range(ctx, &etcdserverpb.RangeRequest{Key: all, RangeEnd: all})
	if err != nil || len(now.Kvs) == 0 {
		s.t.Fatalf("read etcd: %d keys, %v", len(now.GetKvs()), err)
	}
	var data []byte
	for _, kv := range now.Kvs {
		data = append(append(append(data, kv.Key...), '\n'), kv.Value...)
	}
	watch, err := etcdserverpb.NewWatchClient(conn).Watch(ctx, grpc.MaxCallRecvMsgSize(64<<20))
	if err != nil {
		s.t.Fatal(err)
	}
	since := func(revision int64) {
		if err := watch.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{
			CreateRequest: &etcdserverpb.WatchCreateRequest{Key: all, RangeEnd: all, StartRevision: revision}}}); err != nil {
			s.t.Fatal(err)
		}
	}
	since(1)
	for last := int64(0); last < now.Header.Revision; {
		resp, err := watch.Recv()
		if err != nil {
			s.t.Fatalf("read etcd's history: %v", err)
		}
		if resp.CompactRevision > 0 {
			since(resp.CompactRevision)
		}
		for _, e := range resp.Events {
			last = e.Kv.ModRevision
			data = append(append(append(data, e.Kv.Key...), '\n'), e.Kv.Value...)
		}
	}
	s.in("etcd", data, "what a gateway was", "")
}

// files searches all files of the cluster but those of keys: logs, data directories,
// audit logs.
func (s *search) files(dir, certs string) {
	s.t.Helper()
	proofs := map[string]string{"worker0/crash": "a crash", "worker1/config.state": "", "etcd0/member/snap/db": "a name", "control0.log": "a name"}
	for i := range s.Workers {
		proofs[fmt.Sprintf("worker%d.log", i)] = "a name"
	}
	wal := false
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || name == rootKey || filepath.Dir(path) == certs && filepath.Ext(path) == ".key" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		s.in(name, data, proofs[name], "")
		delete(proofs, name)
		wal = wal || filepath.Ext(name) == ".wal"
		return nil
	})
	if err != nil || len(proofs) > 0 || !wal {
		s.t.Errorf("files: %v; a log of etcd was read: %t; not read: %v", err, wal, slices.Sorted(maps.Keys(proofs)))
	}
}

// admin searches what a process's admin listener says.
func (s *search) admin(name, address string) {
	s.t.Helper()
	for _, path := range []string{"/", "/metrics", "/livez", "/readyz", "/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/goroutine?debug=2", "/debug/pprof/heap", "/debug/vars", "/config"} {
		resp, err := http.Get("http://" + address + path)
		if err != nil {
			s.t.Error(err)
			continue
		}
		data, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			s.t.Error(err)
		}
		proof := ""
		if path == "/metrics" {
			proof = "a metric"
		}
		s.in(name+path, data, proof, "")
	}
}

// processes searches arguments and environments of all processes and of their
// programs.
func (s *search) processes(processes []*cluster.Process) {
	s.t.Helper()
	programs := 0
	for _, p := range processes {
		except := ""
		if strings.HasPrefix(p.Name, "worker") {
			except = "variable of workers"
		}
		s.process(p.Name, p.PID, except)
		if except == "" {
			continue
		}
		for _, child := range children(s.t, p.PID) {
			s.process(fmt.Sprintf("a program of %s", p.Name), child, "")
			programs++
		}
	}
	if programs == 0 {
		s.t.Error("no worker runs a program")
	}
}

func (s *search) process(name string, pid int, except string) {
	s.t.Helper()
	for file, proof := range map[string]string{"cmdline": "a program's name", "environ": "a variable"} {
		data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), file))
		if err != nil {
			s.t.Error(err)
			continue
		}
		allowed := ""
		if file == "environ" {
			allowed = except
		}
		s.in(file+" of "+name, data, proof, allowed)
		if allowed != "" && !slices.Contains(s.secrets.set.Find(data), allowed) {
			s.t.Errorf("%s of %s: the search does not find the %s, which is there", file, name, allowed)
		}
	}
}

// children are the processes that a process has started.
func children(t *testing.T, pid int) []int {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil || len(tasks) == 0 {
		t.Fatalf("children of process %d: %v", pid, err)
	}
	var all []int
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has ended
		}
		for _, field := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				all = append(all, child)
			}
		}
	}
	return all
}

// methods calls every method that reads, as a server lists them, for each gateway,
// session and worker.
func (s *search) methods(address string) {
	s.t.Helper()
	conn, err := s.Dial(address, cluster.Operator)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	names := map[string][]string{}
	s.reads(conn, func(method protoreflect.MethodDescriptor) {
		if list, ok := strings.CutPrefix(string(method.Name()), "List"); ok {
			names[strings.TrimSuffix(list, "s")] = s.call(conn, method, "")
		}
	})
	called := 0
	s.reads(conn, func(method protoreflect.MethodDescriptor) {
		called++
		field := method.Input().Fields().ByName("name")
		if field == nil {
			s.call(conn, method, "")
			return
		}
		name := string(method.Name())
		for _, verb := range []string{"Get", "Inspect"} {
			name = strings.TrimPrefix(name, verb)
		}
		if len(names[name]) == 0 {
			s.t.Errorf("%s: there is no %s to call it for", method.FullName(), name)
		}
		for _, each := range names[name] {
			s.call(conn, method, each)
		}
	})
	if called < 11 {
		s.t.Errorf("%d methods were called, want all that read", called)
	}
}

// reads calls do for each method of ours that reads.
func (s *search) reads(conn *grpc.ClientConn, do func(protoreflect.MethodDescriptor)) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), limit)
	defer cancel()
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err == nil {
		err = stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}})
	}
	if err != nil {
		s.t.Fatal(err)
	}
	listed, err := stream.Recv()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, service := range listed.GetListServicesResponse().GetService() {
		if !strings.HasPrefix(service.GetName(), "leasehold.v1.") || service.GetName() == "leasehold.v1.ControlService" {
			continue // workers are told secrets, and nobody else may ask: see TestEveryRPCIsForItsRolesAndForNobodyElse
		}
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service.GetName()))
		if err != nil {
			s.t.Fatal(err)
		}
		methods := found.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			name := string(methods.Get(i).Name())
			if slices.ContainsFunc([]string{"Get", "List", "Watch", "Inspect"}, func(verb string) bool { return strings.HasPrefix(name, verb) }) {
				do(methods.Get(i))
			}
		}
	}
}

// call calls a method, searches what it answers, and returns the names in a list that
// it answers with.
func (s *search) call(conn *grpc.ClientConn, method protoreflect.MethodDescriptor, name string) []string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), limit)
	defer cancel()
	request := dynamicpb.NewMessage(method.Input())
	fields := method.Input().Fields()
	for i := range fields.Len() {
		switch field := fields.Get(i); {
		case field.Name() == "name":
			request.Set(field, protoreflect.ValueOfString(name))
		case field.Kind() == protoreflect.BoolKind:
			request.Set(field, protoreflect.ValueOfBool(true))
		case field.Name() == "page_size":
			request.Set(field, protoreflect.ValueOfInt32(1000))
		}
	}
	place := string(method.FullName()) + " " + name
	path := fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name())
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, path)
	if err == nil {
		err = stream.SendMsg(request)
	}
	if err == nil {
		err = stream.CloseSend()
	}
	var names []string
	proof := ""
	if strings.Contains(string(method.Name()), "Gateway") || strings.Contains(string(method.Name()), "Session") && method.Parent().Name() == "SessionService" {
		proof = "a name"
	}
	var data []byte
	for err == nil {
		answer := dynamicpb.NewMessage(method.Output())
		if err = stream.RecvMsg(answer); err != nil {
			break
		}
		wire, _ := proto.Marshal(answer)
		data = append(data, wire...)
		if !method.IsStreamingServer() {
			names = resources(answer)
			break
		}
		if kind := answer.Get(method.Output().Fields().ByName("type")).Enum(); kind == 3 { // the bookmark
			break
		}
	}
	if err != nil {
		s.t.Errorf("%s: %v", place, status.Code(err))
		data = append(data, err.Error()...)
		details, _ := proto.Marshal(status.Convert(err).Proto())
		data = append(data, details...)
	}
	s.in(place, data, proof, "")
	return names
}

// resources are the names in a list.
func resources(answer protoreflect.Message) []string {
	var names []string
	answer.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		if !field.IsList() || field.Message() == nil || field.Message().Fields().ByName("name") == nil {
			return true
		}
		for i := range value.List().Len() {
			names = append(names, value.List().Get(i).Message().Get(field.Message().Fields().ByName("name")).String())
		}
		return true
	})
	return names
}
