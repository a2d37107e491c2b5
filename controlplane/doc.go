// Package controlplane assembles one replica of the control plane: the gRPC
// services for operators and workers over the state in etcd. A replica keeps
// nothing in memory that etcd does not have; any number of them serve one etcd.
package controlplane
