// Package rpc serves the control plane's gRPC API: GatewayService,
// SessionService and WorkerService for operators, ControlService for workers,
// the standard health service and reflection.
//
// It checks what comes in, asks the store and answers. It is the one place where
// errors become status codes; whoever calls never sees an error's own text
// unless it was written for callers.
package rpc
