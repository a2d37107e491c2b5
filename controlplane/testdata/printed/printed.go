// Package printed prints messages with secrets in each of the ways that a test finds.
package printed

import (
	"encoding/json"
	"fmt"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/proto"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

type holds struct{ gateways []*leaseholdv1.Gateway }

func print(g *leaseholdv1.Gateway, m proto.Message, ring *leaseholdv1.KeyRing, log hclog.Logger) {
	fmt.Println(g.GetUpstreams()[0].GetCredential())
	_ = fmt.Errorf("gateway %v", holds{[]*leaseholdv1.Gateway{g}})
	log.Info("message", "message", m)
	log.With("ring", ring).Info("ring", "keys", len(ring.GetKeys()))
	_, _ = json.Marshal(map[string]*leaseholdv1.Gateway{"g": g})
	_ = g.String()
	fmt.Println(g.GetName(), g.GetStatus())
}
