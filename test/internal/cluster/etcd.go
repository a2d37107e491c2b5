package cluster

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// ErrEtcdFull says that etcd has no space left.
var ErrEtcdFull = errors.New("etcd has no space left")

// ballast is the key whose old values fill etcd.
const ballast = "ballast"

// CompactEtcd makes etcd forget all revisions before the present one.
func (c *Cluster) CompactEtcd(ctx context.Context) error {
	var read struct {
		Header struct {
			Revision string `json:"revision"`
		} `json:"header"`
	}
	if err := c.askEtcd(ctx, c.endpoints[0]+"/v3/kv/range", `{"key":"eA=="}`, &read); err != nil {
		return err
	}
	return c.askEtcd(ctx, c.endpoints[0]+"/v3/kv/compaction", fmt.Sprintf(`{"revision":%q,"physical":true}`, read.Header.Revision), &struct{}{})
}

// FillEtcd writes until etcd, whose quota is to be small, has no space left.
func (c *Cluster) FillEtcd(ctx context.Context) error {
	value := base64.StdEncoding.EncodeToString(make([]byte, 256<<10))
	put := fmt.Sprintf(`{"key":%q,"value":%q}`, base64.StdEncoding.EncodeToString([]byte(ballast)), value)
	for {
		err := c.askEtcd(ctx, c.endpoints[0]+"/v3/kv/put", put, &struct{}{})
		if errors.Is(err, ErrEtcdFull) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// FreeEtcd does what an operator does whose etcd is full: it removes what fills it,
// compacts, defragments each member, and disarms the alarm.
func (c *Cluster) FreeEtcd(ctx context.Context) error {
	remove := fmt.Sprintf(`{"key":%q}`, base64.StdEncoding.EncodeToString([]byte(ballast)))
	err := c.askEtcd(ctx, c.endpoints[0]+"/v3/kv/deleterange", remove, &struct{}{})
	if err == nil {
		err = c.CompactEtcd(ctx)
	}
	for i := 0; i < len(c.endpoints) && err == nil; i++ {
		err = c.askEtcd(ctx, c.endpoints[i]+"/v3/maintenance/defragment", "{}", &struct{}{})
	}
	if err != nil {
		return err
	}
	return c.disarmEtcd(ctx)
}

// disarmEtcd disarms the alarms of all members.
func (c *Cluster) disarmEtcd(ctx context.Context) error {
	var raised struct {
		Alarms []struct {
			Member string `json:"memberID"`
			Alarm  string `json:"alarm"`
		} `json:"alarms"`
	}
	url := c.endpoints[0] + "/v3/maintenance/alarm"
	if err := c.askEtcd(ctx, url, `{"action":"GET"}`, &raised); err != nil {
		return err
	}
	for _, one := range raised.Alarms {
		disarm := fmt.Sprintf(`{"action":"DEACTIVATE","memberID":%q,"alarm":%q}`, one.Member, one.Alarm)
		if err := c.askEtcd(ctx, url, disarm, &struct{}{}); err != nil {
			return err
		}
	}
	return nil
}

// askEtcd asks an etcd member through its HTTP gateway.
func (c *Cluster) askEtcd(ctx context.Context, url, request string, answer any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(request))
	if err != nil {
		return err
	}
	resp, err := c.EtcdClient().Do(req)
	if err != nil {
		return fmt.Errorf("ask etcd: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		if strings.Contains(string(said), "database space exceeded") {
			return fmt.Errorf("ask etcd: %s: %w", url, ErrEtcdFull)
		}
		return fmt.Errorf("ask etcd: %s: %s: %s", url, resp.Status, said)
	}
	if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
		return fmt.Errorf("ask etcd: %w", err)
	}
	return nil
}
