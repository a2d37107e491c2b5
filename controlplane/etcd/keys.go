package etcd

import (
	"strconv"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
)

const (
	root               = "/leasehold/v1/"
	incarnationsPrefix = root + "incarnations/"
	membersPrefix      = root + "members/"
	condemnedPrefix    = root + "condemned/"
	deadPrefix         = root + "dead/"
	sessionsPrefix     = root + "sessions/"
	endedPrefix        = root + "ended/"
	endingsPrefix      = root + "endings/"
	gatewaysPrefix     = root + "gateways/"
	keysPrefix         = root + "keys/"
	collectorKey       = root + "collector"
	orphansKey         = root + "orphans"
	rotatorKey         = root + "rotator"
	// RingKey is where the key ring is; the ring is sealed for this name.
	RingKey = keysPrefix + "ring"
)

// watchFrom and watchEnd bound the one range that is watched: endings, gateways,
// keys and members lie between them, and incarnations, which change rarely.
// Sessions, tombstones and incarnations that are over do not.
const watchFrom = endingsPrefix

var watchEnd = clientv3.GetPrefixRangeEnd(membersPrefix)

func incarnationKey(worker string) string { return incarnationsPrefix + worker }

func memberKey(worker string, incarnation int64) string {
	return membersPrefix + memberText(store.MemberKey{Worker: worker, Incarnation: incarnation})
}

func condemnedKey(worker string, incarnation int64) string {
	return condemnedPrefix + memberText(store.MemberKey{Worker: worker, Incarnation: incarnation})
}

func deadKey(worker string, incarnation int64) string {
	return deadPrefix + memberText(store.MemberKey{Worker: worker, Incarnation: incarnation})
}

// memberText is what parseMember takes apart, behind the prefix.
func memberText(k store.MemberKey) string {
	return k.Worker + "/" + strconv.FormatInt(k.Incarnation, 10)
}

func sessionKey(k session.Key) string { return sessionsPrefix + k.Gateway + "/" + k.Digest }

func endedKey(k session.Key) string { return endedPrefix + k.Gateway + "/" + k.Digest }

func endingKey(k session.Key) string { return endingsPrefix + k.Gateway + "/" + k.Digest }

func gatewayKey(id string) string { return gatewaysPrefix + id }

// parseSession takes apart a key of sessions/, ended/ or endings/.
func parseSession(prefix, key string) (session.Key, bool) {
	gw, digest, ok := strings.Cut(strings.TrimPrefix(key, prefix), "/")
	k := session.Key{Gateway: gw, Digest: digest}
	return k, ok && strings.HasPrefix(key, prefix) && k.Valid()
}

// parseMember takes apart a key of members/, condemned/ or dead/, or with no prefix
// what follows it.
func parseMember(prefix, key string) (store.MemberKey, bool) {
	worker, text, ok := strings.Cut(strings.TrimPrefix(key, prefix), "/")
	incarnation, err := strconv.ParseInt(text, 10, 64)
	ok = ok && err == nil && incarnation > 0 && strings.HasPrefix(key, prefix) && session.ValidWorkerID(worker)
	return store.MemberKey{Worker: worker, Incarnation: incarnation}, ok
}

// The comparisons that transactions are made of.

func absent(key string) clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(key), "=", 0)
}

func present(key string) clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(key), ">", 0)
}

// unchanged holds while key has the modification revision that was read; 0 for a
// key that was absent.
func unchanged(key string, revision int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(key), "=", revision)
}

// notSince holds while nothing under prefix was put after revision.
func notSince(prefix string, revision int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(prefix), "<", revision+1).WithPrefix()
}

// noneSince holds while nothing under prefix was made after revision. What was there
// then may have been changed or deleted.
func noneSince(prefix string, revision int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(prefix), "<", revision+1).WithPrefix()
}
