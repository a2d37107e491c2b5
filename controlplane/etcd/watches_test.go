package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	put      = leaseholdv1.ChangeType_CHANGE_TYPE_PUT
	removed  = leaseholdv1.ChangeType_CHANGE_TYPE_REMOVED
	bookmark = leaseholdv1.ChangeType_CHANGE_TYPE_BOOKMARK
)

// watched is a watch that runs for a test.
type watched[T any] struct {
	t       testing.TB
	changes chan store.Change[T]
	ended   chan error
	stop    func()
}

func startWatch[T any](t testing.TB, run func(ctx context.Context, send func(store.Change[T]) error) error) *watched[T] {
	t.Helper()
	ctx, cancel := context.WithCancel(testContext(t))
	w := &watched[T]{t: t, changes: make(chan store.Change[T]), ended: make(chan error, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.ended <- run(ctx, func(c store.Change[T]) error {
			select {
			case w.changes <- c:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	w.stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(w.stop)
	return w
}

func (w *watched[T]) next() store.Change[T] {
	w.t.Helper()
	select {
	case c := <-w.changes:
		return c
	case err := <-w.ended:
		w.t.Fatalf("watch ended: %v", err)
	}
	panic("unreachable")
}

// change is the next one that is no bookmark.
func (w *watched[T]) change() store.Change[T] {
	w.t.Helper()
	for {
		if c := w.next(); c.Type != bookmark {
			return c
		}
	}
}

func watchGateways(t testing.TB, s *Store, revision int64, filter string) *watched[*leaseholdv1.Gateway] {
	f, violations := gateway.ParseFilter(filter)
	if violations != nil {
		t.Fatal(violations)
	}
	return startWatch(t, func(ctx context.Context, send func(store.Change[*leaseholdv1.Gateway]) error) error {
		return s.WatchGateways(ctx, revision, f, send)
	})
}

func watchSessions(t testing.TB, s *Store, revision int64, filter string) *watched[*leaseholdv1.Session] {
	f, violations := session.ParseFilter(filter)
	if violations != nil {
		t.Fatal(violations)
	}
	return startWatch(t, func(ctx context.Context, send func(store.Change[*leaseholdv1.Session]) error) error {
		return s.WatchSessions(ctx, revision, f, send)
	})
}

func watchWorkers(t testing.TB, s *Store, revision int64) *watched[store.Member] {
	return startWatch(t, func(ctx context.Context, send func(store.Change[store.Member]) error) error {
		return s.WatchWorkers(ctx, revision, send)
	})
}

func label(t testing.TB, s *Store, id, value string) *leaseholdv1.Gateway {
	t.Helper()
	g, err := s.UpdateGateway(testContext(t), id, "", func(g *leaseholdv1.Gateway) (*leaseholdv1.Gateway, error) {
		g.Labels = map[string]string{"env": value}
		return g, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestWatchTellsTheStateThenABookmarkThenChangesOfWhatMatches(t *testing.T) {
	s := openStore(t, ownServer(t), nil)
	for _, id := range []string{"a", "b", "c"} {
		define(t, s, id)
	}
	label(t, s, "a", "prod")
	last := label(t, s, "c", "prod")
	worker := register(t, s)
	w := watchGateways(t, s, 0, "labels.env = prod")
	for _, id := range []string{"a", "c"} {
		c := w.next()
		if c.Type != put || c.Resource.Name != "gateways/"+id || c.Revision != 0 || c.Resource.Status.WorkersTotal != 1 || c.Resource.Etag == "" {
			t.Errorf("state has %+v, want %s with its status, at no revision", c, id)
		}
	}
	mark := w.next()
	if mark.Type != bookmark || mark.Revision < last.Status.Revision || mark.Resource != nil {
		t.Errorf("after the state got %+v, want a bookmark at %d or later", mark, last.Status.Revision)
	}
	worker.claim(t, s, session.Key{Gateway: "b", Digest: newSession().Digest})
	changed := label(t, s, "b", "prod")
	if c := w.change(); c.Type != put || c.Resource.Name != "gateways/b" || c.Revision != changed.Status.Revision || c.Resource.Status.Sessions != 1 {
		t.Errorf("one that begins to match comes as %+v, want it put at %d with 1 session", c, changed.Status.Revision)
	}
	label(t, s, "a", "test")
	if c := w.change(); c.Type != removed || c.Resource.Name != "gateways/a" || c.Resource.Upstreams != nil {
		t.Errorf("one that stops to match comes as %+v, want it removed", c)
	}
	label(t, s, "a", "other") // neither did nor does match
	if _, err := s.DeleteGateway(testContext(t), "a", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.DeleteGateway(testContext(t), "c", ""); err != nil {
		t.Fatal(err)
	}
	if c := w.change(); c.Type != removed || c.Resource.Name != "gateways/c" {
		t.Errorf("after deletions got %+v, want c removed and nothing of a", c)
	}
}

func TestWatchResumesWithoutAMissOrARepeat(t *testing.T) {
	s := openStore(t, ownServer(t), nil)
	g := define(t, s, "g")
	var told []string
	w := watchGateways(t, s, 0, "")
	w.next()
	revision := w.next().Revision
	for i := range 40 {
		label(t, s, "g", fmt.Sprint(i))
	}
	for len(told) < 40 { // each watch tells a few
		w.stop()
		w = watchGateways(t, s, revision, "")
		for range 7 {
			if len(told) == 40 {
				break
			}
			c := w.change()
			told, revision = append(told, c.Resource.Labels["env"]), c.Revision
		}
	}
	for i, value := range told {
		if value != fmt.Sprint(i) {
			t.Fatalf("told %v, want 0 to 39 in order", told)
		}
	}
	w.stop()
	if _, err := s.client.Compact(testContext(t), revision); err != nil {
		t.Fatal(err)
	}
	for what, run := range map[string]func(revision int64) error{
		"gateways": func(revision int64) error { return <-watchGateways(t, s, revision, "").ended },
		"sessions": func(revision int64) error { return <-watchSessions(t, s, revision, "").ended },
		"workers":  func(revision int64) error { return <-watchWorkers(t, s, revision).ended },
	} {
		if err := run(g.Status.Revision); !errors.Is(err, store.ErrCompacted) {
			t.Errorf("%s from before the compaction: %v, want ErrCompacted", what, err)
		}
		if err := run(revision + 1000); !errors.Is(err, store.ErrFutureRevision) {
			t.Errorf("%s from the future: %v, want ErrFutureRevision", what, err)
		}
	}
	label(t, s, "g", "after")
	w = watchGateways(t, s, revision, "")
	if c := w.change(); c.Resource.Labels["env"] != "after" {
		t.Errorf("resumed at the compaction: %+v, want what came after", c)
	}
}

// Claims share transactions, so many sessions have one revision. Whoever breaks
// off in the middle of it must not miss the rest.
func TestWatchResumesInTheMiddleOfARevision(t *testing.T) {
	s := openStore(t, ownServer(t), nil)
	owner := register(t, s)
	start := revisionNow(t, s)
	release := hold(t, s)
	const claims = 30
	errs := make(chan error, claims)
	ctx := testContext(t)
	var want []string
	for range claims {
		key := newSession()
		want = append(want, key.Name())
		go func() {
			_, err := s.Claim(ctx, key, owner.record())
			errs <- err
		}()
	}
	waitFor(t, func() bool { return len(s.writes.waiting) == claims })
	release()
	for range claims {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	w := watchSessions(t, s, start, "")
	seen := map[string]bool{}
	revision := start
	for range claims / 2 {
		c := w.change()
		seen[c.Resource.Name], revision = true, c.Revision
	}
	w.stop()
	w = watchSessions(t, s, revision, "")
	for len(seen) < claims {
		seen[w.change().Resource.Name] = true
	}
	for _, name := range want {
		if !seen[name] {
			t.Errorf("%s was missed", name)
		}
	}
	w.stop()
}

func TestWatchSessionsTellsWhoOwnsThemAndHowTheyEnd(t *testing.T) {
	s := openStore(t, ownServer(t), nil)
	a, b := register(t, s), register(t, s)
	before, key := newSession(), newSession()
	a.claim(t, s, before)
	mustEnd(t, s, a, before)
	all := watchSessions(t, s, 0, "gateway = test AND class = resumable")
	of := watchSessions(t, s, 0, "owner = workers/"+a.id)
	if c := all.next(); c.Type != bookmark {
		t.Errorf("an ended session is told as %+v", c)
	}
	revision := a.claim(t, s, key)
	a.claim(t, s, session.Key{Gateway: "another", Digest: key.Digest})
	if c := all.change(); c.Type != put || c.Resource.Name != key.Name() || len(c.Resource.Events) != 1 {
		t.Errorf("claim is told as %+v", c)
	}
	saved := a.record()
	saved.Upstreams[0].SealedSessionId = []byte("nobody sees it")
	if _, err := s.Save(testContext(t), key, revision, saved); err != nil {
		t.Fatal(err)
	}
	a.kill(t, s)
	if _, _, err := s.Reclaim(testContext(t), key, b.taker(resolve(t, s, key))); err != nil {
		t.Fatal(err)
	}
	if c := all.change(); c.Type != put || c.Resource.Epoch != 2 || c.Resource.Owner != "workers/"+b.id || len(c.Resource.Events) != 2 {
		t.Errorf("after a save that shows nothing and a reclaim: %+v, want the reclaim", c)
	}
	mustEnd(t, s, b, key)
	if c := all.change(); c.Type != removed || c.Resource.Name != key.Name() || c.Resource.End.GetReason() != leaseholdv1.EndReason_END_REASON_CLIENT {
		t.Errorf("end is told as %+v, want it removed with its end", c)
	}
	if err := s.Collect(testContext(t), time.Unix(1<<40, 0)); err != nil { // nobody hears of tombstones
		t.Fatal(err)
	}
	last := newSession()
	b.claim(t, s, last)
	if c := all.change(); c.Resource.Name != last.Name() {
		t.Errorf("got %+v, want the next session", c)
	}
	of.change()
	of.change()
	if c := of.change(); c.Type != removed || c.Resource.Name != key.Name() || c.Resource.Owner != "workers/"+b.id {
		t.Errorf("a session that went to another owner is told as %+v, want it removed", c)
	}
}

func TestWatchWorkersTellsOneIncarnationOfEach(t *testing.T) {
	s := openStore(t, ownServer(t), nil)
	a := register(t, s)
	w := watchWorkers(t, s, 0)
	if c := w.next(); c.Type != put || c.Resource.MemberKey != a.key() || c.Resource.Info.GetZone() != "here" {
		t.Errorf("state has %+v", c)
	}
	from := w.next().Revision
	incarnation, _, err := s.Register(testContext(t), a.id, someInfo)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Applied(testContext(t), a.key(), store.Ack{Revision: 5}); err != nil { // the earlier one does not count any more
		t.Fatal(err)
	}
	a.kill(t, s)
	next := alive{id: a.id, incarnation: incarnation}
	if err := s.Applied(testContext(t), next.key(), store.Ack{Revision: 7}); err != nil {
		t.Fatal(err)
	}
	if err := s.Leave(testContext(t), next.id, next.incarnation, 0); err != nil {
		t.Fatal(err)
	}
	for _, w := range []*watched[store.Member]{w, watchWorkers(t, s, from)} {
		if c := w.change(); c.Type != put || c.Resource.MemberKey != next.key() {
			t.Errorf("registered again: %+v, want the next incarnation", c)
		}
		if c := w.change(); c.Type != put || c.Resource.MemberKey != next.key() || c.Resource.AppliedRevision != 7 {
			t.Errorf("acknowledged: %+v, want the next incarnation at 7", c)
		}
		if c := w.change(); c.Type != removed || c.Resource.MemberKey != next.key() {
			t.Errorf("left: %+v, want it removed", c)
		}
	}
}

// A watch on which nothing happens is told how far it has come, or it could not
// resume after a compaction.
func TestIdleWatchIsToldHowFarItHasCome(t *testing.T) {
	s := openStore(t, ownServer(t), nil)
	s.bookmark = 20 * time.Millisecond
	w := watchGateways(t, s, 0, "")
	first := w.next().Revision
	register(t, s)
	waitFor(t, func() bool { return w.next().Revision > first })
}

func TestWatchEndsWithUnavailableWhenEtcdGoes(t *testing.T) {
	server, err := StartServer(testContext(t), ServerConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s := openStore(t, server, nil)
	w := watchGateways(t, s, 0, "")
	w.next()
	server.Close()
	for {
		select {
		case <-w.changes: // bookmarks
			continue
		case err := <-w.ended:
			if !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("ended with %v, want ErrUnavailable", err)
			}
		}
		return
	}
}

func TestListsAreFiltered(t *testing.T) {
	s := openStore(t, ownServer(t), nil)
	owner, other := register(t, s), register(t, s)
	for i := range 450 { // more than is read at once
		g := define(t, s, fmt.Sprintf("g%03d", i))
		if i%150 == 149 {
			label(t, s, g.Name[len("gateways/"):], "prod")
		}
	}
	var ids []string
	f, _ := gateway.ParseFilter("labels.env:* AND labels.env = prod")
	for q := (gateway.Query{Size: 2, Filter: f}); ; {
		page, last, more, err := s.ListGateways(testContext(t), q)
		if err != nil || len(page) > 2 {
			t.Fatalf("page of %d: %v", len(page), err)
		}
		for _, g := range page {
			ids = append(ids, g.Name)
		}
		if q.After = last; !more {
			break
		}
	}
	if want := []string{"gateways/g149", "gateways/g299", "gateways/g449"}; !slices.Equal(ids, want) {
		t.Errorf("listed %v, want %v", ids, want)
	}
	mine, theirs := newSession(), newSession()
	owner.claim(t, s, mine)
	other.claim(t, s, theirs)
	for text, want := range map[string]int{
		"owner = " + owner.id: 1, "gateway = gateways/test": 2, "class = PINNED": 0,
		"gateway = test AND gateway = other": 0, "class = CLASS_RESUMABLE AND owner = workers/" + other.id: 1,
	} {
		f, violations := session.ParseFilter(text)
		page, _, more, err := s.ListSessions(testContext(t), session.Query{Filter: f, Size: 10})
		if violations != nil || err != nil || more || len(page) != want {
			t.Errorf("%s: %d sessions, more %v, %v, %v; want %d", text, len(page), more, violations, err, want)
		}
	}
}
