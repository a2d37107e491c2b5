package operator

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Knows reports whether the control plane knows a name of the API, such as a field
// of a request, which it would take no notice of otherwise. It asks by reflection.
func Knows(ctx context.Context, conn *grpc.ClientConn, name protoreflect.FullName) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // which ends the stream
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		return false, err
	}
	// If it fails, Recv says why.
	_ = stream.Send(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: string(name)},
	})
	response, err := stream.Recv()
	if Code(err) == codes.Unimplemented {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if refused := response.GetErrorResponse(); refused != nil && codes.Code(refused.GetErrorCode()) != codes.NotFound {
		return false, fmt.Errorf("ask the control plane whether it knows %s: %s", name, refused.GetErrorMessage())
	}
	return response.GetFileDescriptorResponse() != nil, nil
}
