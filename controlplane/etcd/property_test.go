package etcd

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// How much of it is tried; -rapid.checks and -rapid.steps on the command line
// ask for another amount.
const (
	plays = "100"
	steps = "40"
	// enough is when no further play begins, on a slow machine.
	enough   = 10 * time.Second
	playWait = 10 * time.Second
)

// Whatever workers and operators ask for, in whatever order, late, twice, or in
// between what another request reads and what it writes: the answers and the
// store are what the rules say, and what the witness watches for never happens.
func TestOwnershipFollowsTheRules(t *testing.T) {
	mine := bound(t, "rapid.checks", plays)
	bound(t, "rapid.steps", steps)
	bound(t, "rapid.shrinktime", "10s")
	bound(t, "rapid.nofailfile", "true")
	server := quickServer(t)
	c := &clock{}
	calm, paused := openAtClock(t, server, c), openAtClock(t, server, c)
	s := &stage{calm: calm, paused: paused, clock: c, seen: map[string]int{}}
	s.kv = &pausedKV{KV: s.paused.client.KV}
	s.paused.client.KV = s.kv
	begin := time.Now()
	s.later = begin.AddDate(5, 0, 0)
	rapid.Check(t, func(rt *rapid.T) {
		if mine && !s.failed && time.Since(begin) > enough {
			return
		}
		p := newPlay(rt, s)
		rt.Repeat(map[string]func(*rapid.T){
			"request":       p.oneMore,
			"request again": p.oneMore, // all are as likely, so that these come more often
			"late double":   func(rt *rapid.T) { p.alone(rt, rapid.SampledFrom(p.past).Draw(rt, "double")) },
			"two":           p.twoAtOnce,
			"two again":     p.twoAtOnce,
			"answer lost":   p.answerLost,
			"time passes":   p.timePasses,
			"hold":          p.hold,
		})
	})
	for _, what := range slices.Sorted(maps.Keys(s.seen)) {
		t.Logf("%6d %s", s.seen[what], what)
	}
}

// quickServer is a server for one test that does not wait for the disk.
func quickServer(t testing.TB) *Server {
	t.Helper()
	cfg, err := ServerConfig{Dir: t.TempDir()}.embed()
	if err != nil {
		t.Fatal(err)
	}
	cfg.UnsafeNoFsync = true
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	select {
	case <-e.Server.ReadyNotify():
	case err := <-e.Err():
		t.Fatal(err)
	case <-testContext(t).Done():
		t.Fatal("etcd is not ready in time")
	}
	return &Server{etcd: e}
}

// bound sets a flag for the test unless it was given, and reports whether it did.
func bound(t testing.TB, name, value string) bool {
	t.Helper()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	if given {
		return false
	}
	f := flag.Lookup(name)
	before := f.Value.String()
	if err := f.Value.Set(value); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Value.Set(before) })
	return true
}

// openAtClock opens a store whose workers may serve on, and whose clock the test has.
func openAtClock(t testing.TB, server *Server, c *clock) *Store {
	t.Helper()
	s, err := Open(ClientConfig{Endpoints: server.Endpoints(), LeaseTTL: testTTL, MaxOutage: testOutage, Hold: unheld})
	if err != nil {
		t.Fatal(err)
	}
	s.contact.now, s.muted = c.now, 0
	runStore(t, s)
	return s
}

// stage is what all plays share.
type stage struct {
	calm, paused *Store
	clock        *clock
	kv           *pausedKV      // of paused
	seen         map[string]int // how often what was answered what
	// later is when the last late collection was: each is days after the one
	// before.
	later  time.Time
	failed bool
}

// play is one history, and what the store must be by now.
type play struct {
	*stage
	model   *world
	witness *witness

	sessions []session.Key
	expire   time.Time
	// members are all incarnations there ever were, and leases theirs.
	members []store.MemberKey
	leases  map[store.MemberKey][]int64
	// readings are what resolutions of each session ever said, as takers.
	readings map[session.Key][]session.Taker
	past     []request
	// about is who the next requests are rather about.
	about store.MemberKey
}

// newPlay empties the store and registers some workers.
func newPlay(t *rapid.T, s *stage) *play {
	p := &play{
		stage:    s,
		model:    newWorld(),
		witness:  &witness{seen: newWorld(), gone: map[store.MemberKey]bool{}},
		expire:   time.Now().Add(24 * time.Hour).Truncate(time.Second),
		leases:   map[store.MemberKey][]int64{},
		readings: map[session.Key][]session.Taker{},
	}
	ctx, cancel := context.WithTimeout(t.Context(), playWait)
	defer cancel()
	if _, err := s.calm.client.Delete(ctx, root, clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	holdRequest(p.replicas(), false).send(ctx, nil)
	for range rapid.IntRange(1, 3).Draw(t, "sessions") {
		p.sessions = append(p.sessions, newSession())
	}
	for range rapid.IntRange(2, 3).Draw(t, "workers") {
		p.alone(t, registerRequest(workerID()))
	}
	return p
}

func (s *stage) replicas() []*Store { return []*Store{s.calm, s.paused} }

func (p *play) oneMore(t *rapid.T) { p.alone(t, p.draw(t, p.focus(t), "")) }

// timePasses now and then, so that nobody who is dead can serve on any more.
func (p *play) timePasses(t *rapid.T) {
	if rapid.IntRange(0, 2).Draw(t, "no time passes") == 0 {
		p.alone(t, waitRequest(p.replicas(), p.clock))
	}
}

// hold begins now and then, and ends soon.
func (p *play) hold(t *rapid.T) {
	if p.model.holding || rapid.IntRange(0, 3).Draw(t, "no hold") == 0 {
		p.alone(t, holdRequest(p.replicas(), !p.model.holding))
	}
}

// alone sends a request while nothing else happens.
func (p *play) alone(t *rapid.T, x request) {
	ctx, cancel := context.WithTimeout(t.Context(), playWait)
	defer cancel()
	p.clock.advance(askPeersEvery)
	o := x.send(ctx, p.calm)
	t.Logf("%#v: %v", x, o)
	now, err := p.look(ctx)
	p.check(t, err)
	p.settle(t, now, []asked{{x, o, x.rules}})
	p.remember(x, o)
}

// rivals are the requests that change what a request of a kind rests on.
var rivals = map[string][]string{
	"claim":     {"claim", "end", "lose", "opened", "opened"},
	"save":      {"save", "save", "reclaim", "hand over", "hand over", "end", "lose"},
	"reclaim":   {"reclaim", "reclaim", "end", "end", "save", "hand over", "readopt", "register", "leave", "lose", "peers", "peers", "forget"},
	"hand over": {"hand over", "hand over", "save", "save", "reclaim", "end", "lose", "register"},
	"readopt":   {"reclaim", "reclaim", "readopt", "register", "leave", "forget", "peers"},
	"register":  {"register", "leave", "forget", "peers"},
	"leave":     {"register", "readopt", "leave", "peers"},
	"forget":    {"readopt", "readopt", "register", "leave", "peers"},
	"peers":     {"reclaim", "reclaim", "reclaim", "peers", "peers", "readopt", "register", "leave", "forget"},
	"end":       {"end", "save", "claim", "reclaim", "hand over"},
	"wish":      {"end", "save"},
	"resolve":   {"reclaim", "save", "end", "lose", "readopt", "hand over", "forget"},
	"opened":    {"claim", "claim", "readopt", "end", "lose", "opened"},
}

// firsts are the kinds of the first of two, the more often the more guards they
// have.
var firsts = []string{
	"reclaim", "reclaim", "reclaim", "reclaim", "readopt", "readopt", "readopt", "save", "save", "save", "save",
	"register", "register", "leave", "leave", "claim", "end", "wish", "resolve", "opened", "opened",
	"hand over", "hand over", "hand over", "peers", "peers", "peers", "peers", "forget",
}

// two draws two requests about the same session; half of the time they are
// rivals. The first is not one of many transactions, each of which may come
// before the second or after.
func (p *play) two(t *rapid.T) (x, y request) {
	key := p.focus(t)
	p.prepare(t, key)
	x = p.draw(t, key, rapid.SampledFrom(firsts).Draw(t, "first"))
	if !rapid.Bool().Draw(t, "rivals") {
		return x, p.draw(t, key, "")
	}
	p.about = x.by
	y = p.draw(t, key, rapid.SampledFrom(rivals[x.kind]).Draw(t, "rival"))
	p.about = store.MemberKey{}
	return x, y
}

// prepare makes it likely that there is something to be changed: somebody has the
// session, who may then die.
func (p *play) prepare(t *rapid.T, key session.Key) {
	if p.model.sessions[key].record == nil && rapid.IntRange(0, 3).Draw(t, "no record") < 3 {
		p.alone(t, claimRequest(key, p.record(t, p.living(t))))
	}
	rec := p.model.sessions[key].record
	if rec != nil && p.model.alive(owner(rec)) && rapid.Bool().Draw(t, "owner dies") {
		p.alone(t, loseRequest(p.model.members[owner(rec)]))
	}
}

// together sends x, and y in the middle of it.
func (p *play) together(t *rapid.T, x, y request, lost bool) (first, second outcome, now *world) {
	ctx, cancel := context.WithTimeout(t.Context(), playWait)
	defer cancel()
	p.clock.advance(askPeersEvery)
	var between error
	var changed bool
	p.kv.lost, p.kv.skip = lost, rapid.IntRange(0, len(x.rules)-1).Draw(t, "at")
	p.kv.meanwhile = func() {
		then, before := p.look(ctx)
		second = y.send(ctx, p.calm)
		since, after := p.look(ctx)
		between = errors.Join(before, after)
		changed = between == nil && x.rests != nil && x.rests(then) != x.rests(since)
	}
	first = x.send(ctx, p.paused)
	if p.kv.lost, p.kv.skip = false, 0; p.kv.meanwhile != nil { // what it read decided it
		p.kv.pause()
	}
	t.Logf("%#v: %v\n\tand meanwhile %#v: %v", x, first, y, second)
	now, err := p.look(ctx)
	p.check(t, errors.Join(between, err))
	if x.rests != nil && !lost && changed && first.err == nil {
		p.check(t, errors.New("granted, although what it rests on changed since it was read"))
	}
	if errors.Is(first.err, store.ErrUnavailable) && !changed {
		p.check(t, errors.New("refused, although nothing came in between"))
	}
	return first, second, now
}

// twoAtOnce sends two requests, the second when the first has read and not yet
// written. What comes of it is what would have come of one after the other.
func (p *play) twoAtOnce(t *rapid.T) {
	x, y := p.two(t)
	o, between, now := p.together(t, x, y, false)
	first, second := asked{x, o, x.rules}, asked{y, between, y.rules}
	orders := [][]asked{{first, second}, {second, first}}
	if x.refusedInVain(o) {
		orders = [][]asked{{second}}
	} else if len(x.rules) > 1 {
		orders = append(orders, []asked{{x, o, x.rules[:1]}, second, {x, o, x.rules[1:]}})
	}
	if x.kind == "peers" { // nobody is condemned whose list changed meanwhile
		orders = append(orders, []asked{second, {x, o, x.rules[len(x.rules)-1:]}})
	}
	p.settle(t, now, orders...)
	p.remember(x, o)
	p.remember(y, between)
}

// answerLost sends a request of which a transaction is sent again because its
// first answer is lost, and another request in between. The first may have been
// carried out before the second, and is then answered as if it came after.
func (p *play) answerLost(t *rapid.T) {
	x, y := p.two(t)
	o, between, now := p.together(t, x, y, true)
	first, second := asked{x, o, x.rules}, asked{y, between, y.rules}
	begun := first
	begun.rules = x.rules[:1]
	last := first
	last.rules = x.rules[len(x.rules)-1:]
	orders := [][]asked{
		{first, second}, {second, first},
		{unheard(first), second, last},
	}
	if len(x.rules) > 1 {
		orders = append(orders, []asked{begun, second, last})
	}
	if x.kind == "peers" { // nobody is condemned whose list changed meanwhile
		orders = append(orders, []asked{second, last})
	}
	if x.refusedInVain(o) {
		orders = [][]asked{{second}, {unheard(begun), second}}
	}
	p.settle(t, now, orders...)
	p.remember(x, o)
	p.remember(y, between)
}

// unheard is a with an answer that nobody heard.
func unheard(a asked) asked {
	a.outcome = outcome{
		lost:        true,
		revision:    unknown,
		incarnation: cmp.Or(a.outcome.incarnation, unknown),
		lease:       cmp.Or(a.outcome.lease, unknown),
	}
	return a
}

// refusedInVain reports whether o says that something came in between, and that
// the same may be asked again.
func (x request) refusedInVain(o outcome) bool {
	return x.rests != nil && errors.Is(o.err, store.ErrUnavailable) && o.incarnation == 0
}

// look shows the store to the witness.
func (p *play) look(ctx context.Context) (*world, error) {
	now, err := readWorld(ctx, p.calm)
	if err != nil {
		return nil, err
	}
	p.witness.model = p.model
	return now, p.witness.see(now)
}

// asked is a request with its outcome, or a part of it.
type asked struct {
	request
	outcome outcome
	rules   []rule
}

// check fails the test. The text is always the same, so that rapid knows the
// failure again and finds its shortest history; what failed is in the log.
func (p *play) check(t *rapid.T, err error) {
	if err != nil {
		p.failed = true
		println(err.Error())
		t.Log(err)
		t.Fatal("this must not happen")
	}
}

// settle takes the first order in which the rules explain all outcomes and what
// the store is now.
func (p *play) settle(t *rapid.T, now *world, orders ...[]asked) {
	var reasons []error
	for i, order := range orders {
		w := p.model.clone()
		err := obey(w, order, now)
		w.learn(now)
		if err = errors.Join(err, w.compare(now)); err == nil {
			p.model = w
			return
		}
		reasons = append(reasons, fmt.Errorf("order %d: %w", i, err))
	}
	p.check(t, errors.Join(reasons...))
}

// obey changes w as the rules say. What the collector did shows in what was read after
// all of it, since nobody else deletes what it deletes.
func obey(w *world, order []asked, read *world) error {
	for _, a := range order {
		for _, rule := range a.rules {
			if err := rule(w, a.outcome); err != nil {
				return fmt.Errorf("%#v: %w", a.request, err)
			}
		}
		if a.kind == "collect" {
			w.learnForgotten(read)
		}
	}
	return nil
}

// remember keeps what later requests are made of.
func (p *play) remember(x request, o outcome) {
	verdict := "granted"
	if o.err != nil {
		verdict = o.err.Error()[strings.LastIndex(o.err.Error(), ": ")+2:]
	}
	p.seen[x.kind+": "+verdict]++
	p.past = append(p.past, x)
	for _, k := range slices.SortedFunc(maps.Keys(p.model.members), eldest) {
		if !slices.Contains(p.members, k) {
			p.members = append(p.members, k)
		}
		if lease := p.model.members[k]; !slices.Contains(p.leases[k], lease) {
			p.leases[k] = append(p.leases[k], lease)
		}
	}
	for key, stored := range p.model.sessions {
		reading := session.Taker{Revision: stored.revision, IncarnationRevision: p.model.incarnations[stored.record.Worker].revision}
		if !slices.Contains(p.readings[key], reading) {
			p.readings[key] = append(p.readings[key], reading)
		}
	}
}

// eldest orders incarnations, so that rapid can repeat what it did.
func eldest(a, b store.MemberKey) int { return cmp.Compare(a.Incarnation, b.Incarnation) }

// focus is a session, rather one that has not ended: a new one when all have.
func (p *play) focus(t *rapid.T) session.Key {
	if rapid.IntRange(0, 7).Draw(t, "ended too") == 7 {
		return rapid.SampledFrom(p.sessions).Draw(t, "session")
	}
	open := slices.DeleteFunc(slices.Clone(p.sessions), func(k session.Key) bool { return session.Ended(p.model.sessions[k].record) })
	if len(open) == 0 {
		open = append(open, newSession())
		p.sessions = append(p.sessions, open[0])
	}
	return rapid.SampledFrom(open).Draw(t, "session")
}

var (
	// kinds are the requests that are drawn, the more often the more is to be
	// found out.
	kinds = []string{
		"reclaim", "reclaim", "reclaim", "reclaim", "reclaim", "save", "save", "save", "claim", "end", "wish", "resolve",
		"lose", "lose", "lose", "register", "register", "readopt", "readopt", "readopt", "leave", "renew", "renew", "collect",
		"hand over", "hand over", "hand over", "peers", "peers", "peers", "peers", "forget", "opened",
	}
	// beginnings are drawn while there is no record.
	beginnings = slices.Concat(kinds, slices.Repeat([]string{"claim"}, len(kinds)))
)

// draw makes a request about a session or those that have to do with it, of a
// kind or of any.
func (p *play) draw(t *rapid.T, key session.Key, kind string) request {
	if kind == "" && p.model.sessions[key].record == nil {
		kind = rapid.SampledFrom(beginnings).Draw(t, "kind")
	} else if kind == "" {
		kind = rapid.SampledFrom(kinds).Draw(t, "kind")
	}
	switch kind {
	case "claim":
		return claimRequest(key, p.record(t, p.member(t, key)))
	case "reclaim":
		return p.reclaim(t, key)
	case "save":
		return p.save(t, key)
	case "end":
		k := p.member(t, key)
		end := session.End{Worker: k.Worker, Incarnation: k.Incarnation, Time: p.expire.Add(-time.Hour), Expire: p.expire}
		end.Reason = rapid.SampledFrom([]leaseholdv1.EndReason{leaseholdv1.EndReason_END_REASON_CLIENT, leaseholdv1.EndReason_END_REASON_IDLE}).Draw(t, "reason")
		return endRequest(key, end)
	case "wish":
		return wishRequest(key)
	case "resolve":
		return resolveRequest(key)
	case "opened":
		return openedRequest(key, p.member(t, key))
	case "hand over":
		return p.handOver(t, key)
	case "peers":
		return p.peers(t, key)
	case "forget":
		k := p.member(t, key)
		return forgetRequest(k.Worker).of(k)
	case "lose":
		return loseRequest(p.lease(t, p.member(t, key)))
	case "register":
		k := p.member(t, key)
		return registerRequest(k.Worker).of(k)
	case "readopt":
		k := p.member(t, key)
		return readoptRequest(k).of(k)
	case "leave":
		k := p.member(t, key)
		return leaveRequest(k, p.lease(t, k)).of(k)
	case "renew":
		k := p.member(t, key)
		return renewRequest(k, p.lease(t, k))
	}
	if rapid.Bool().Draw(t, "late") {
		p.later = p.later.AddDate(0, 0, 3)
		return collectRequest(p.later, true)
	}
	return collectRequest(time.Now(), false)
}

// member is the session's owner, somebody alive, or anybody there ever was.
func (p *play) member(t *rapid.T, key session.Key) store.MemberKey {
	if p.about.Worker != "" && rapid.IntRange(0, 3).Draw(t, "somebody else") < 3 {
		return p.about
	}
	stored, owned := p.model.sessions[key]
	switch who := rapid.IntRange(0, 5).Draw(t, "who"); {
	case owned && who < 3:
		return owner(stored.record)
	case who < 5:
		return p.living(t)
	}
	return rapid.SampledFrom(p.members).Draw(t, "anybody")
}

func (p *play) living(t *rapid.T) store.MemberKey {
	living := slices.DeleteFunc(slices.Clone(p.members), func(k store.MemberKey) bool { return !p.model.alive(k) })
	if len(living) == 0 {
		living = p.members
	}
	return rapid.SampledFrom(living).Draw(t, "living")
}

// lease is the newest of the incarnation, or an earlier one.
func (p *play) lease(t *rapid.T, k store.MemberKey) int64 {
	if rapid.Bool().Draw(t, "any lease") {
		return rapid.SampledFrom(p.leases[k]).Draw(t, "lease")
	}
	return p.leases[k][len(p.leases[k])-1]
}

// newest is the last of all that there were, most of the time.
func newest[T any](t *rapid.T, all []T, label string) T {
	if rapid.IntRange(0, 7).Draw(t, label+" is old") < 7 {
		return all[len(all)-1]
	}
	return rapid.SampledFrom(all).Draw(t, label)
}

// reclaim rests on what was read of the session last, or some time before.
func (p *play) reclaim(t *rapid.T, key session.Key) request {
	k := p.living(t)
	if rapid.IntRange(0, 4).Draw(t, "by anybody") == 4 {
		k = rapid.SampledFrom(p.members).Draw(t, "taker")
	}
	taker := session.Taker{Worker: k.Worker, Incarnation: k.Incarnation, Revision: 1, IncarnationRevision: 1}
	taker.SupersededOnly = rapid.IntRange(0, 7).Draw(t, "without power") == 7
	if readings := p.readings[key]; len(readings) > 0 {
		taker.Revision = newest(t, readings, "record").Revision
		taker.IncarnationRevision = newest(t, readings, "incarnation").IncarnationRevision
	}
	return reclaimRequest(key, taker)
}

// handOver is by the owner as it was seen last, or by somebody else.
func (p *play) handOver(t *rapid.T, key session.Key) request {
	h := session.HandOver{From: p.member(t, key), To: p.living(t), Cursors: map[string]string{"u": rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "cursor")}}
	if stored, ok := p.model.sessions[key]; ok && rapid.IntRange(0, 3).Draw(t, "by anybody") < 3 {
		h.From = owner(stored.record)
	}
	revision := int64(1)
	if readings := p.readings[key]; len(readings) > 0 {
		revision = newest(t, readings, "record").Revision
	}
	return handOverRequest(key, revision, h)
}

// peers is whom somebody knows, who are alive, and who is gone.
func (p *play) peers(t *rapid.T, key session.Key) request {
	k := p.member(t, key)
	others := slices.DeleteFunc(slices.Clone(p.members), func(o store.MemberKey) bool { return o.Worker == k.Worker })
	var peers, gone []session.Peer
	for _, o := range others {
		if p.model.alive(o) && rapid.IntRange(0, 3).Draw(t, "knows it") < 3 {
			peers = append(peers, o)
		}
	}
	if len(others) > 0 && rapid.Bool().Draw(t, "somebody is gone") {
		gone = append(gone, rapid.SampledFrom(others).Draw(t, "gone"))
	}
	return peersRequest(k, peers, gone).of(k)
}

// save changes the record as it is, or says what somebody else believes.
func (p *play) save(t *rapid.T, key session.Key) request {
	stored, ok := p.model.sessions[key]
	if !ok || rapid.IntRange(0, 3).Draw(t, "of another") == 3 {
		rec := p.record(t, p.member(t, key))
		rec.Epoch = rapid.Uint64Range(1, 3).Draw(t, "epoch")
		return saveRequest(key, stored.revision, rec)
	}
	rec := proto.CloneOf(stored.record)
	rec.End = nil
	rec.ProtocolVersion = rapid.SampledFrom([]string{"one", "two", "three"}).Draw(t, "content")
	return saveRequest(key, newest(t, p.readings[key], "revision").Revision, rec)
}

// record is one that k claims.
func (p *play) record(t *rapid.T, k store.MemberKey) *session.Record {
	rec := alive{id: k.Worker, incarnation: k.Incarnation}.record()
	rec.ExpireTime = timestamppb.New(p.expire)
	rec.ProtocolVersion = rapid.SampledFrom([]string{"one", "two"}).Draw(t, "content")
	return rec
}
