package group

// consumerProtocolType is the protocol type of Kafka's consumers, whose member
// metadata is readable: a subscription.
const consumerProtocolType = "consumer"

// subscriptionTopics adds the topics of a member's subscription. It reads version 0,
// which is the prefix of all others, so that it need not know newer ones.
func subscriptionTopics(metadata []byte, topics map[string]struct{}) bool {
	r := reader{b: metadata}
	if version := r.int16(); version < 0 {
		return false
	}
	for range r.arrayLen() {
		topic := r.string()
		if r.bad {
			return false
		}
		topics[topic] = struct{}{}
	}
	if n := r.int32(); n >= 0 { // user data; any negative length is null
		r.span(int(n))
	}
	return !r.bad
}
