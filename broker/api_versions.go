package broker

import (
	"millrace/broker/wire"
	"millrace/netpoll"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// ApiVersions, versions 0-4. Version 3 carries the client's software name and
// version (KIP-511), and the features: of Kafka's none is finalised, so transactions
// stay at the client's own fallback.

// advertised returns the ranges of the dispatch table.
func advertised() []kmsg.ApiVersionsResponseApiKey {
	keys := make([]kmsg.ApiVersionsResponseApiKey, 0, len(apis))
	for _, a := range apis {
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion, k.MaxVersion = a.key, a.min, a.max
		if a.key == 0 {
			// librdkafka before 2.8 turns compression off when the advertised
			// minimum of Produce is above 0 (KAFKA-18659); older versions than 3
			// are still refused.
			k.MinVersion = 0
		}
		keys = append(keys, k)
	}
	return keys
}

func (b *Broker) apiVersions(_ *requestContext, c *call, req *kmsg.ApiVersionsRequest) {
	resp := kmsg.NewPtrApiVersionsResponse()
	if req.Version >= 3 && (!validSoftwareName(req.ClientSoftwareName) || !validSoftwareName(req.ClientSoftwareVersion)) {
		resp.ErrorCode = errInvalidRequest
	} else {
		resp.ApiKeys = advertised()
		setFeatures(resp, b.meta.Image())
		s := c.conn.Data.(*session)
		s.clientName, s.clientVersion = req.ClientSoftwareName, req.ClientSoftwareVersion
	}
	c.respond(resp)
}

// validSoftwareName is KIP-511's pattern: [a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?
func validSoftwareName(s string) bool {
	alnum := func(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
	if s == "" || !alnum(s[0]) || !alnum(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if !alnum(s[i]) && s[i] != '-' && s[i] != '.' {
			return false
		}
	}
	return true
}

// apiVersionsUnknown answers a version above ours: in the form of version 0,
// with error 35 and the range of ApiVersions itself, so that the client can ask
// again (KIP-511). Anything else makes clients hang.
func (b *Broker) apiVersionsUnknown(conn *netpoll.Conn, corr int32) {
	resp := kmsg.NewPtrApiVersionsResponse()
	resp.ErrorCode = errUnsupportedVersion
	for _, k := range advertised() {
		if k.ApiKey == 18 {
			resp.ApiKeys = append(resp.ApiKeys, k)
		}
	}
	out := conn.Loop().NewResponse()
	out.Append(resp.AppendTo(wire.AppendResponseHeader(nil, corr, false)))
	conn.Reply(conn.Begin(), out)
}
