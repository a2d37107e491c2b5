package controlplane

import "google.golang.org/grpc/credentials"

// Trust is how the plane proves what it is, and how it knows others. A part that
// is nil means plaintext, which is for loopback.
type Trust struct {
	// Listener secures Config.Listener, and says who calls: its AuthInfo has to be
	// an rpc.Caller. Callers then may do what their role may, and workers act for
	// themselves only. Nil: everybody may call everything.
	Listener credentials.TransportCredentials
	// Workers is for connections to workers.
	Workers credentials.TransportCredentials
	// Etcd is for connections to EtcdEndpoints.
	Etcd credentials.TransportCredentials
}
