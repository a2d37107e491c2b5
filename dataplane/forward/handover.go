package forward

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/leasehold/leasehold/dataplane/session"
	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Expecter keeps places for sessions that other workers hand over to this one.
type Expecter interface {
	// Expect keeps a place, or says why there is none.
	Expect(incarnation int64, gateway string, d sessionid.Digest, epoch uint64) (*session.Expected, error)
	// TakeUp takes a session up if its record names this worker. The giver was not
	// heard of again, so that nobody knows here whether it does.
	TakeUp(gateway string, d sessionid.Digest)
}

// Expects says where sessions are taken up that are handed over to this worker. It is
// called before Serve.
func (s *Server) Expects(e Expecter) { s.expecter = e }

// Offer implements session.Receivers.
func (c *Client) Offer(ctx context.Context, to session.Receiver, gateway string, d sessionid.Digest, epoch uint64) (session.Offered, error) {
	p, err := c.peer(to.Address)
	if err != nil {
		return nil, err
	}
	// The stream outlives the offer, whose time is bounded by ctx.
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	o := &offered{cancel: cancel}
	if o.stream, err = leaseholdv1.NewPeerServiceClient(p.conn).HandOver(own); err == nil {
		err = o.exchange(ctx, (*leaseholdv1.PeerServiceHandOverResponse).GetAccepted, &leaseholdv1.PeerServiceHandOverRequest{Offer: &leaseholdv1.HandOverOffer{
			Worker: to.Worker, Incarnation: to.Incarnation, Gateway: gateway, Session: d.String(), Epoch: epoch,
		}})
	}
	if err != nil {
		cancel()
		return nil, err
	}
	return o, nil
}

// offered is the giver's end of a hand-over. It implements session.Offered.
type offered struct {
	stream leaseholdv1.PeerService_HandOverClient
	cancel context.CancelFunc
}

// exchange sends messages and waits for the answer to the last one, within ctx. An
// error ends the stream.
func (o *offered) exchange(ctx context.Context, want func(*leaseholdv1.PeerServiceHandOverResponse) bool, messages ...*leaseholdv1.PeerServiceHandOverRequest) error {
	stop := context.AfterFunc(ctx, o.cancel)
	defer stop()
	for _, message := range messages {
		if err := o.stream.Send(message); err != nil {
			if err != io.EOF {
				return err
			}
			break // Recv says why
		}
	}
	answer, err := o.stream.Recv()
	switch {
	case err != nil:
		return err
	case answer.GetRefusal() != leaseholdv1.HandOverRefusal_HAND_OVER_REFUSAL_UNSPECIFIED:
		return fmt.Errorf("refused by the receiver: %v", answer.GetRefusal())
	case !want(answer):
		return errors.New("the receiver answered something else than was asked")
	}
	return nil
}

// Send implements session.Offered.
func (o *offered) Send(ctx context.Context, replays []*leaseholdv1.HandOverReplay, state *leaseholdv1.HandOverState) error {
	messages := make([]*leaseholdv1.PeerServiceHandOverRequest, 0, len(replays)+1)
	for _, replay := range replays {
		messages = append(messages, &leaseholdv1.PeerServiceHandOverRequest{Replay: replay})
	}
	messages = append(messages, &leaseholdv1.PeerServiceHandOverRequest{State: state})
	return o.exchange(ctx, (*leaseholdv1.PeerServiceHandOverResponse).GetReady, messages...)
}

// Grant implements session.Offered.
func (o *offered) Grant(ctx context.Context, record *leaseholdv1.SessionRecord, revision int64, late []byte) error {
	defer o.cancel()
	return o.exchange(ctx, (*leaseholdv1.PeerServiceHandOverResponse).GetAdopted,
		&leaseholdv1.PeerServiceHandOverRequest{Grant: &leaseholdv1.HandOverGrant{Record: record, Revision: revision, LateEvents: late}})
}

// Withdraw implements session.Offered.
func (o *offered) Withdraw() { o.cancel() }

// HandOver implements leaseholdv1.PeerServiceServer.
func (s *Server) HandOver(stream grpc.BidiStreamingServer[leaseholdv1.PeerServiceHandOverRequest, leaseholdv1.PeerServiceHandOverResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	expected, err := s.expect(first.GetOffer())
	if err != nil {
		return refuseOffer(stream, err)
	}
	defer expected.Withdraw()
	if err := stream.Send(&leaseholdv1.PeerServiceHandOverResponse{Accepted: true}); err != nil {
		return err
	}
	for complete := false; ; {
		message, err := stream.Recv()
		switch {
		case err != nil && complete:
			s.expecter.TakeUp(first.GetOffer().GetGateway(), expected.Digest())
			return nil
		case err != nil:
			return nil // withdrawn
		case message.GetReplay() != nil:
			err = expected.Add(message.GetReplay())
		case message.GetState() != nil:
			expected.Complete(message.GetState())
			complete = true
			err = stream.Send(&leaseholdv1.PeerServiceHandOverResponse{Ready: true})
		case message.GetGrant() != nil:
			expected.Late(message.GetGrant().GetLateEvents())
			if err := expected.Granted(message.GetGrant().GetRecord(), message.GetGrant().GetRevision()); err != nil {
				defer s.takeUp(first.GetOffer(), expected, err)
				return refuseOffer(stream, err)
			}
			return stream.Send(&leaseholdv1.PeerServiceHandOverResponse{Adopted: true})
		default:
			err = errors.New("a message has none of replay, state and grant")
		}
		if err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
	}
}

// takeUp sees to a session that is this worker's and could not be taken up yet.
func (s *Server) takeUp(offer *leaseholdv1.HandOverOffer, expected *session.Expected, err error) {
	if !errors.Is(err, session.ErrStale) && !errors.Is(err, session.ErrOver) {
		s.expecter.TakeUp(offer.GetGateway(), expected.Digest())
	}
}

func (s *Server) expect(offer *leaseholdv1.HandOverOffer) (*session.Expected, error) {
	if offer == nil {
		return nil, errors.New("the first message has no offer")
	}
	digest, err := sessionid.ParseDigest(offer.GetSession())
	if err != nil {
		return nil, fmt.Errorf("session: %w", err)
	}
	return s.expecter.Expect(offer.GetIncarnation(), offer.GetGateway(), digest, offer.GetEpoch())
}

// ErrDraining says that a worker takes no sessions.
var ErrDraining = errors.New("this worker takes no more sessions")

func refuseOffer(stream grpc.BidiStreamingServer[leaseholdv1.PeerServiceHandOverRequest, leaseholdv1.PeerServiceHandOverResponse], err error) error {
	refusal := leaseholdv1.HandOverRefusal_HAND_OVER_REFUSAL_BEHIND
	switch {
	case errors.Is(err, session.ErrFull):
		refusal = leaseholdv1.HandOverRefusal_HAND_OVER_REFUSAL_FULL
	case errors.Is(err, session.ErrLost), errors.Is(err, session.ErrFenced):
		refusal = leaseholdv1.HandOverRefusal_HAND_OVER_REFUSAL_NOT_ALIVE
	case errors.Is(err, session.ErrStale), errors.Is(err, session.ErrExpected):
		refusal = leaseholdv1.HandOverRefusal_HAND_OVER_REFUSAL_STALE
	case errors.Is(err, ErrDraining):
		refusal = leaseholdv1.HandOverRefusal_HAND_OVER_REFUSAL_DRAINING
	}
	return stream.Send(&leaseholdv1.PeerServiceHandOverResponse{Refusal: refusal})
}

// Mover hands sessions over for an operator.
type Mover interface {
	// MoveNow hands a session of this worker over, to one worker or, if that is
	// empty, to one that it chooses, and returns which.
	MoveNow(ctx context.Context, gateway string, d sessionid.Digest, to string) (worker string, err error)
}

// Moves says who hands sessions over for operators. It is called before Serve.
func (s *Server) Moves(m Mover) { s.mover = m }

// HandOverNow implements leaseholdv1.PeerServiceServer.
func (s *Server) HandOverNow(ctx context.Context, r *leaseholdv1.HandOverNowRequest) (*leaseholdv1.HandOverNowResponse, error) {
	digest, err := sessionid.ParseDigest(r.GetSession())
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "session: %v", err)
	}
	worker, err := s.mover.MoveNow(ctx, r.GetGateway(), digest, r.GetTo())
	switch {
	case err == nil:
		return &leaseholdv1.HandOverNowResponse{Worker: worker}, nil
	case errors.Is(err, session.ErrNoRecord), errors.Is(err, session.ErrLost):
		return nil, withReason(codes.FailedPrecondition, "NOT_OWNER", err)
	case errors.Is(err, session.ErrPinned):
		return nil, withReason(codes.FailedPrecondition, "PINNED", err)
	case errors.Is(err, session.ErrBusy):
		return nil, withReason(codes.FailedPrecondition, "BUSY", err)
	}
	return nil, status.Error(codes.Unavailable, err.Error())
}

func withReason(code codes.Code, reason string, err error) error {
	st := status.New(code, err.Error())
	if with, detailErr := st.WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "leasehold"}); detailErr == nil {
		st = with
	}
	return st.Err()
}
