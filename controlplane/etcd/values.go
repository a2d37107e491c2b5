package etcd

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// incarnationValue is the value of incarnations/{worker}.
type incarnationValue struct {
	// Incarnation is E. It is 0 in the put that makes the incarnation, which
	// cannot know its own revision, and said by every later one.
	Incarnation int64 `json:"incarnation,omitempty"`
	// Attempt is the worker's attempt to register that made the incarnation; 0 if it
	// did not say.
	Attempt int64 `json:"attempt,omitempty"`
	// Left says that the worker left: nobody may continue the incarnation.
	Left bool `json:"left,omitempty"`
	// Registered is when the incarnation was made.
	Registered time.Time `json:"registered"`
	// Certificate is the name in the certificate that the worker registered with;
	// every incarnation of the worker has the same.
	Certificate string `json:"certificate,omitempty"`
	// Peers are those whom the worker is recorded to know, in order. Whoever puts the
	// same incarnation again keeps them: without them anybody could take over from it.
	Peers peerList `json:"peers,omitempty"`
	// Number is that of the request that recorded them.
	Number int64 `json:"number,omitempty"`

	foreign foreign
}

// UnmarshalJSON implements json.Unmarshaler.
func (v *incarnationValue) UnmarshalJSON(data []byte) error {
	type plain incarnationValue
	return v.foreign.split(data, (*plain)(v))
}

// MarshalJSON implements json.Marshaler.
func (v incarnationValue) MarshalJSON() ([]byte, error) {
	type plain incarnationValue
	return v.foreign.join(plain(v))
}

// superseded reports whether an incarnation can never act again, by the value that
// its worker's key has at revision, which is 0 when there is none.
func (v incarnationValue) superseded(revision, incarnation int64) bool {
	return revision == 0 || v.Left || v.Incarnation != incarnation
}

// peerList is kept as texts, {worker}/{E}, which are short.
type peerList []session.Peer

// MarshalJSON implements json.Marshaler.
func (l peerList) MarshalJSON() ([]byte, error) {
	texts := make([]string, len(l))
	for i, p := range l {
		texts[i] = memberText(p)
	}
	return json.Marshal(texts)
}

// UnmarshalJSON implements json.Unmarshaler.
func (l *peerList) UnmarshalJSON(data []byte) error {
	var texts []string
	if err := json.Unmarshal(data, &texts); err != nil {
		return err
	}
	*l = make(peerList, len(texts))
	for i, text := range texts {
		p, ok := parseMember("", text)
		if !ok {
			return fmt.Errorf("%q is not a worker's incarnation", text)
		}
		(*l)[i] = p
	}
	return nil
}

func decodeIncarnation(kv *mvccpb.KeyValue) (incarnationValue, error) {
	var v incarnationValue
	if err := json.Unmarshal(kv.Value, &v); err != nil {
		return v, fmt.Errorf("decode %s: %w", kv.Key, err)
	}
	if v.Incarnation == 0 {
		v.Incarnation = kv.ModRevision
	}
	return v, nil
}

// memberValue is the value of members/{worker}/{E}.
type memberValue struct {
	PeerAddress     string `json:"peer,omitempty"`
	ListenAddress   string `json:"listen,omitempty"`
	AdminAddress    string `json:"admin,omitempty"`
	Zone            string `json:"zone,omitempty"`
	Version         string `json:"version,omitempty"`
	Capacity        int32  `json:"capacity,omitempty"`
	AppliedRevision int64  `json:"applied,omitempty"`
	// Rejections are what the worker rejects as of AppliedRevision, at most 100.
	Rejections []store.Rejection `json:"rejections,omitempty"`
	Draining   bool              `json:"draining,omitempty"`
	Protocol   int32             `json:"protocol,omitempty"`
	Registered time.Time         `json:"registered"`

	foreign foreign
}

// UnmarshalJSON implements json.Unmarshaler.
func (v *memberValue) UnmarshalJSON(data []byte) error {
	type plain memberValue
	return v.foreign.split(data, (*plain)(v))
}

// MarshalJSON implements json.Marshaler.
func (v memberValue) MarshalJSON() ([]byte, error) {
	type plain memberValue
	return v.foreign.join(plain(v))
}

func newMemberValue(info *leaseholdv1.WorkerInfo, registered time.Time) memberValue {
	return memberValue{
		PeerAddress:   info.GetPeerAddress(),
		ListenAddress: info.GetListenAddress(),
		AdminAddress:  info.GetAdminAddress(),
		Zone:          info.GetZone(),
		Version:       info.GetVersion(),
		Capacity:      info.GetCapacity(),
		Draining:      info.GetDraining(),
		Protocol:      info.GetProtocol(),
		Registered:    registered,
	}
}

func (v memberValue) member(key store.MemberKey) store.Member {
	return store.Member{
		MemberKey: key,
		Info: &leaseholdv1.WorkerInfo{
			PeerAddress:   v.PeerAddress,
			ListenAddress: v.ListenAddress,
			AdminAddress:  v.AdminAddress,
			Zone:          v.Zone,
			Version:       v.Version,
			Capacity:      v.Capacity,
			Draining:      v.Draining,
			Protocol:      v.Protocol,
		},
		AppliedRevision: v.AppliedRevision,
		Rejections:      v.Rejections,
		RegisterTime:    v.Registered,
	}
}

// encode returns the JSON of one of the two values above, which always encode.
func encode(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // a struct of strings, numbers and a time of this century
	}
	return string(text)
}

func decodeMember(kv *mvccpb.KeyValue) (store.Member, error) {
	key, ok := parseMember(membersPrefix, string(kv.Key))
	if !ok {
		return store.Member{}, fmt.Errorf("decode %q: not a member key", kv.Key)
	}
	v, err := decodeMemberValue(kv)
	return v.member(key), err
}

func decodeMemberValue(kv *mvccpb.KeyValue) (v memberValue, err error) {
	if err := json.Unmarshal(kv.Value, &v); err != nil {
		return v, fmt.Errorf("decode %s: %w", kv.Key, err)
	}
	return v, nil
}

// decodeRecord returns the record in kv, and nil for no kv.
func decodeRecord(kv *mvccpb.KeyValue) (*session.Record, error) {
	if kv == nil {
		return nil, nil
	}
	rec := &session.Record{}
	if err := proto.Unmarshal(kv.Value, rec); err != nil {
		return nil, fmt.Errorf("decode %s: %w", kv.Key, err)
	}
	return rec, nil
}

func encodeProto(m proto.Message) (string, error) {
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("encode %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return string(value), nil
}

// unixText is how ended/ and condemned/ keep a time.
func unixText(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }

func parseUnix(value []byte) (time.Time, error) {
	seconds, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("decode time: %w", err)
	}
	return time.Unix(seconds, 0), nil
}
