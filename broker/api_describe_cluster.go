package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// The endpoint types of DescribeCluster.
const (
	endpointBrokers     int8 = 1
	endpointControllers int8 = 2
)

// DescribeCluster, versions 0-2 (1: endpoint type; 2: fenced brokers).
func (b *Broker) describeCluster(_ context.Context, rc *requestContext, req *kmsg.DescribeClusterRequest) *kmsg.DescribeClusterResponse {
	resp := kmsg.NewPtrDescribeClusterResponse()
	resp.EndpointType = endpointBrokers
	if rc.Version >= 1 && req.EndpointType != endpointBrokers {
		err := faultf(errUnsupportedEndpointType, "Unsupported endpoint type %d", req.EndpointType)
		if req.EndpointType == endpointControllers {
			err = faultf(errMismatchedEndpointType, "The request was sent to an endpoint of the wrong type.")
		}
		resp.ErrorCode, resp.ErrorMessage = answer(err)
		return resp
	}
	img := b.meta.Image()
	resp.ClusterID, resp.ControllerID = img.ClusterID, b.controllerID(img)
	for _, n := range img.SortedBrokers() {
		// A broker that was only announced has no address yet.
		if n.Fenced && (!req.IncludeFencedBrokers || n.Host == "") {
			continue
		}
		r := kmsg.NewDescribeClusterResponseBroker()
		r.NodeID, r.Host, r.Port, r.IsFenced = n.ID, n.Host, n.Port, n.Fenced
		if n.Rack != "" {
			r.Rack = kmsg.StringPtr(n.Rack)
		}
		resp.Brokers = append(resp.Brokers, r)
	}
	if req.IncludeClusterAuthorizedOperations {
		resp.ClusterAuthorizedOperations = clusterAuthorizedOperations
	}
	return resp
}
