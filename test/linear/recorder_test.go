package linear

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// carryLimit bounds how long a message that is carried out may take. What takes
// longer has an unknown outcome.
const carryLimit = 10 * time.Second

// recorder writes down what passes between workers and control planes.
type recorder struct {
	began time.Time
	late  sync.WaitGroup // messages that are repeated
	quit  chan struct{}  // closed when nothing is repeated any more

	mu         sync.Mutex // guards all below
	operations []operation
	seen       func(operation, proto.Message, proto.Message) // is told of each operation, with request and response
	finished   bool                                          // nothing more is repeated
}

func newRecorder() *recorder {
	return &recorder{began: time.Now(), quit: make(chan struct{})}
}

// now is the one clock of a world.
func (r *recorder) now() int64 { return int64(time.Since(r.began)) }

// at is a moment on that clock.
func (r *recorder) at(t time.Time) int64 { return int64(t.Sub(r.began)) }

// begins writes down an operation that begins now: until it ends, nobody knows
// its outcome. It returns the operation's number.
func (r *recorder) begins(op *operation) int {
	op.Call, op.Return, op.Outcome = r.now(), never, unknown
	r.mu.Lock()
	defer r.mu.Unlock()
	r.operations = append(r.operations, *op)
	return len(r.operations) - 1
}

// ends writes down how an operation ended now.
func (r *recorder) ends(number int, op *operation, request, response proto.Message, err error) {
	op.Return = r.now()
	op.answered(response, err)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.operations[number] = *op
	if r.seen != nil {
		r.seen(*op, request, response)
	}
}

// tell makes the recorder tell of each operation as it is written down.
func (r *recorder) tell(seen func(operation, proto.Message, proto.Message)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = seen
}

// all returns what was written down so far.
func (r *recorder) all() []operation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]operation(nil), r.operations...)
}

// finish waits for what is still to be repeated, and repeats no more.
func (r *recorder) finish() {
	r.mu.Lock()
	r.finished = true
	r.mu.Unlock()
	close(r.quit)
	r.late.Wait()
}

// call is a request of a worker on its way.
type call struct {
	road    *road
	method  string
	request proto.Message
}

// plan is what becomes of a call. The zero plan is that it is carried out and
// answered.
type plan struct {
	// lost loses the request: it is never carried out.
	lost bool
	// before is waited for before it is carried out, and after before the answer
	// goes back.
	before, after <-chan struct{}
	// insist carries it out even if the worker has given up by then.
	insist bool
	// unanswered loses the answer.
	unanswered bool
	// again carries it out once more, so much later.
	again []time.Duration
	// done is called once it was carried out.
	done func()
}

// policy decides what becomes of each call of a worker.
type policy func(call) plan

// road is what lies between one worker process and the control planes.
type road struct {
	recorder *recorder
	process  string

	mu     sync.Mutex // guards all below
	lives  []life     // the processes that used the road, the latest last
	open   chan struct{}
	cut    chan struct{}
	policy policy
}

func newRoad(r *recorder, process string) *road {
	open := make(chan struct{})
	close(open)
	return &road{recorder: r, process: process, open: open, cut: make(chan struct{})}
}

// sever keeps everything from passing, in both directions.
func (r *road) sever() {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.open:
		r.open = make(chan struct{})
		close(r.cut)
	default: // it is severed
	}
}

// heal lets everything pass again.
func (r *road) heal() {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.open:
	default:
		close(r.open)
		r.cut = make(chan struct{})
	}
}

// use makes p decide over the calls from now on; nil lets all of them pass.
func (r *road) use(p policy) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.policy = p
}

// life is one process of a worker, which is another worker each time.
type life struct {
	pid    int
	worker string // its id, once it registered
}

// begin notes a new process.
func (r *road) begin(pid int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lives = append(r.lives, life{pid: pid})
}

// named notes the id of the process that uses the road.
func (r *road) named(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lives[len(r.lives)-1].worker = id
}

// id is the id of the latest process, once it registered.
func (r *road) id() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lives[len(r.lives)-1].worker
}

// wasNamed reports whether a process that used the road had an id.
func (r *road) wasNamed(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.lives, func(l life) bool { return l.worker == id })
}

// idOf is the id that a process had, empty if the road was never its own.
func (r *road) idOf(pid int) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.lives {
		if l.pid == pid {
			return l.worker
		}
	}
	return ""
}

// passable waits until the road is open.
func (r *road) passable(ctx context.Context) error {
	r.mu.Lock()
	open := r.open
	r.mu.Unlock()
	select {
	case <-open:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// severed is closed when the road is next severed, or has been.
func (r *road) severed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cut
}

func (r *road) plan(c call) plan {
	r.mu.Lock()
	p := r.policy
	r.mu.Unlock()
	if p == nil {
		return plan{}
	}
	return p(c)
}

// lane is a road's way to one replica. It serves whatever ControlService has.
type lane struct {
	*road
	replica *grpc.ClientConn
}

// methods are those of ControlService.
var methods = leaseholdv1.File_leasehold_v1_control_proto.Services().ByName("ControlService").Methods()

// handle is the handler of every method.
func (l lane) handle(_ any, stream grpc.ServerStream) error {
	full, _ := grpc.MethodFromServerStream(stream)
	method := methods.ByName(protoreflect.Name(path.Base(full)))
	if method == nil {
		return errLost // of another service, which workers do not use
	}
	if method.IsStreamingServer() {
		return l.pipe(stream, full, method)
	}
	request := message(method.Input())
	if err := stream.RecvMsg(request); err != nil {
		return err
	}
	response, err := l.serve(stream.Context(), call{l.road, path.Base(full), request})
	if err != nil {
		return err
	}
	return stream.SendMsg(response)
}

// message returns an empty message of a type.
func message(d protoreflect.MessageDescriptor) proto.Message {
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		panic(err) // ControlService is linked in, with all that it uses
	}
	return t.New().Interface()
}

// serve carries a call out, or what its plan makes of it.
func (l lane) serve(ctx context.Context, c call) (proto.Message, error) {
	if err := l.passable(ctx); err != nil {
		return nil, err
	}
	if r, ok := c.request.(*leaseholdv1.RegisterRequest); ok {
		l.named(r.GetWorker())
	}
	p := l.plan(c)
	if p.lost {
		return nil, errLost
	}
	carried := ctx
	if p.insist {
		carried = context.WithoutCancel(ctx)
	}
	if err := await(carried, p.before); err != nil {
		return nil, err
	}
	response, err := l.carry(carried, c, false)
	for _, later := range p.again {
		l.repeat(c, later)
	}
	if p.done != nil {
		p.done()
	}
	if err := await(ctx, p.after); err != nil {
		return nil, err
	}
	if err := l.passable(ctx); err != nil {
		return nil, err
	}
	if p.unanswered {
		return nil, errLost
	}
	return response, err
}

// await waits for a channel, if there is one.
func await(ctx context.Context, c <-chan struct{}) error {
	if c == nil {
		return nil
	}
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// carry carries a call out and writes it down.
func (l lane) carry(ctx context.Context, c call, late bool) (proto.Message, error) {
	op := asked(c.method, c.request)
	op.Process, op.Late = l.process, late
	response := message(methods.ByName(protoreflect.Name(c.method)).Output())
	ctx, cancel := context.WithTimeout(ctx, carryLimit)
	defer cancel()
	number := l.recorder.begins(&op)
	err := l.replica.Invoke(ctx, "/leasehold.v1.ControlService/"+c.method, c.request, response)
	l.recorder.ends(number, &op, c.request, response, err)
	return response, err
}

// repeat carries a call out once more, later.
func (l lane) repeat(c call, later time.Duration) {
	l.recorder.mu.Lock()
	defer l.recorder.mu.Unlock()
	if l.recorder.finished {
		return
	}
	l.recorder.late.Go(func() {
		timer := time.NewTimer(later)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-l.recorder.quit: // it is late enough
		}
		l.carry(context.Background(), c, true)
	})
}

// pipe passes a stream on until either side or the road ends it.
func (l lane) pipe(down grpc.ServerStream, full string, method protoreflect.MethodDescriptor) error {
	if err := l.passable(down.Context()); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(down.Context())
	defer cancel(nil)
	cut := l.severed()
	go func() {
		select {
		case <-cut:
			cancel(errLost)
		case <-ctx.Done():
		}
	}()
	up, err := l.replica.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, full)
	if err != nil {
		return err
	}
	go func() {
		pass(method.Input(), down.RecvMsg, up.SendMsg)
		up.CloseSend()
	}()
	err = pass(method.Output(), up.RecvMsg, down.SendMsg)
	if context.Cause(ctx) == errLost {
		return errLost
	}
	if err == io.EOF {
		return nil
	}
	return err
}

// pass passes messages on until one end fails.
func pass(d protoreflect.MessageDescriptor, receive, send func(any) error) error {
	for {
		m := message(d)
		if err := receive(m); err != nil {
			return err
		}
		if err := send(m); err != nil {
			return err
		}
	}
}

// writeLines writes values to a file, one JSON text a line.
func writeLines[T any](file string, values []T) error {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	encoder := json.NewEncoder(out)
	for _, v := range values {
		if err := encoder.Encode(v); err != nil {
			return err
		}
	}
	return out.Close()
}
