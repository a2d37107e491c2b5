// Command etcdmember runs one member of an etcd cluster that is known
// beforehand. Tests start several as processes of their own, because a binary
// of etcd is not to be had everywhere. It prints "ready" once the cluster
// serves, and serves until it is killed.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
)

// startLimit is how long the cluster may take to elect a leader.
const startLimit = time.Minute

func main() {
	name := flag.String("name", "", "the member's name in --cluster")
	dir := flag.String("data-dir", "", "the member's own directory")
	client := flag.String("client", "", "URL for clients")
	peer := flag.String("peer", "", "URL for the other members")
	cluster := flag.String("cluster", "", "all members: name=peer URL, separated by commas")
	var tls transport.TLSInfo
	flag.StringVar(&tls.TrustedCAFile, "ca", "", "authorities of clients and members; with https URLs")
	flag.StringVar(&tls.CertFile, "cert", "", "the member's certificate")
	flag.StringVar(&tls.KeyFile, "key", "", "the private key of --cert")
	quota := flag.Int64("quota", 0, "how many bytes the data may take; 0 means etcd's default")
	flag.Parse()
	tls.ClientCertAuth = tls.TrustedCAFile != ""
	if err := run(*name, *dir, *client, *peer, *cluster, *quota, tls); err != nil {
		fmt.Fprintln(os.Stderr, "etcdmember:", err)
		os.Exit(1)
	}
}

// run serves until the server stops by itself.
func run(name, dir, client, peer, cluster string, quota int64, tls transport.TLSInfo) error {
	clientURL, err := url.Parse(client)
	if err != nil {
		return err
	}
	peerURL, err := url.Parse(peer)
	if err != nil {
		return err
	}
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir, cfg.InitialCluster = name, dir, cluster
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*clientURL}, []url.URL{*clientURL}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{*peerURL}, []url.URL{*peerURL}
	cfg.ClientTLSInfo, cfg.PeerTLSInfo = tls, tls
	cfg.LogLevel = "warn"
	cfg.QuotaBackendBytes = quota
	// Tests kill processes, never the machine: what was written survives that
	// without being forced to the disk, which is slow on some machines.
	cfg.UnsafeNoFsync = true
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	defer server.Close()
	select {
	case <-server.Server.ReadyNotify():
	case err := <-server.Err():
		return err
	case <-time.After(startLimit):
		return errors.New("the cluster has no leader")
	}
	fmt.Println("ready")
	return <-server.Err()
}
