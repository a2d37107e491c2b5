package rpc

import (
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Roles that call.
const (
	roleOperator = "operator"
	roleWorker   = "worker"
)

// rule says who may call a method.
type rule struct {
	// role is the callers' role; empty means that any will do.
	role string
	// acts returns the worker that a request acts for, which has to be the
	// caller's own; false if the request is not of the kind that says so. Nil means
	// that requests act for nobody.
	acts func(request any) (worker string, ok bool)
}

var (
	forAll       = rule{}
	forOperators = rule{role: roleOperator}
	forWorkers   = rule{role: roleWorker}
	forItself    = rule{role: roleWorker, acts: inRequest}
	forOwner     = rule{role: roleWorker, acts: inRecord}
)

// rules has a rule for each method of the listener. A method without one is for
// nobody.
var rules = map[string]rule{
	leaseholdv1.GatewayService_CreateGateway_FullMethodName:  forOperators,
	leaseholdv1.GatewayService_GetGateway_FullMethodName:     forOperators,
	leaseholdv1.GatewayService_ListGateways_FullMethodName:   forOperators,
	leaseholdv1.GatewayService_UpdateGateway_FullMethodName:  forOperators,
	leaseholdv1.GatewayService_DeleteGateway_FullMethodName:  forOperators,
	leaseholdv1.GatewayService_WatchGateways_FullMethodName:  forOperators,
	leaseholdv1.GatewayService_InspectGateway_FullMethodName: forOperators,

	leaseholdv1.SessionService_GetSession_FullMethodName:       forOperators,
	leaseholdv1.SessionService_ListSessions_FullMethodName:     forOperators,
	leaseholdv1.SessionService_TerminateSession_FullMethodName: forOperators,
	leaseholdv1.SessionService_MoveSession_FullMethodName:      forOperators,
	leaseholdv1.SessionService_WatchSessions_FullMethodName:    forOperators,

	leaseholdv1.WorkerService_GetWorker_FullMethodName:     forOperators,
	leaseholdv1.WorkerService_ListWorkers_FullMethodName:   forOperators,
	leaseholdv1.WorkerService_DrainWorker_FullMethodName:   forOperators,
	leaseholdv1.WorkerService_UndrainWorker_FullMethodName: forOperators,
	leaseholdv1.WorkerService_ForgetWorker_FullMethodName:  forOperators,
	leaseholdv1.WorkerService_WatchWorkers_FullMethodName:  forOperators,

	leaseholdv1.KeyService_GetRootKeys_FullMethodName:    forOperators,
	leaseholdv1.KeyService_RotateRootKey_FullMethodName:  forOperators,
	leaseholdv1.KeyService_RotateDataKeys_FullMethodName: forOperators,

	leaseholdv1.ControlService_Register_FullMethodName:    forWorkers, // this is what makes an id the caller's own
	leaseholdv1.ControlService_Resolve_FullMethodName:     forWorkers,
	leaseholdv1.ControlService_Renew_FullMethodName:       forItself,
	leaseholdv1.ControlService_Readopt_FullMethodName:     forItself,
	leaseholdv1.ControlService_Leave_FullMethodName:       forItself,
	leaseholdv1.ControlService_Watch_FullMethodName:       forItself,
	leaseholdv1.ControlService_RecordPeers_FullMethodName: forItself,
	leaseholdv1.ControlService_SetDraining_FullMethodName: forItself,
	leaseholdv1.ControlService_HandOver_FullMethodName:    forItself,
	leaseholdv1.ControlService_Reclaim_FullMethodName:     forItself,
	leaseholdv1.ControlService_End_FullMethodName:         forItself,
	leaseholdv1.ControlService_Claim_FullMethodName:       forOwner,
	leaseholdv1.ControlService_Save_FullMethodName:        forOwner,

	leaseholdv1.ControlService_GetKeyRingRevision_FullMethodName: forWorkers,

	leaseholdv1.KeyService_GetSessionKeys_FullMethodName:   forOperators,
	leaseholdv1.KeyService_RotateSessionKey_FullMethodName: forOperators,

	healthv1.Health_Check_FullMethodName: forAll,
	healthv1.Health_List_FullMethodName:  forAll,
	healthv1.Health_Watch_FullMethodName: forAll,

	reflectionv1.ServerReflection_ServerReflectionInfo_FullMethodName:      forOperators,
	reflectionv1alpha.ServerReflection_ServerReflectionInfo_FullMethodName: forOperators,
}

func inRequest(request any) (string, bool) {
	r, ok := request.(interface{ GetWorker() string })
	if !ok {
		return "", false
	}
	return r.GetWorker(), true
}

func inRecord(request any) (string, bool) {
	r, ok := request.(interface {
		GetRecord() *leaseholdv1.SessionRecord
	})
	if !ok {
		return "", false
	}
	return r.GetRecord().GetWorker(), true
}
