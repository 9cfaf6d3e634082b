package group

import "fmt"

// State is where a group is in its life. The names are Kafka's, as in the answers
// to DescribeGroups and ListGroups.
type State int8

// The states of a group; the package comment draws how they follow each other.
const (
	Empty State = iota
	PreparingRebalance
	CompletingRebalance
	Stable
	Dead
	stateCount
)

var stateNames = [stateCount]string{"Empty", "PreparingRebalance", "CompletingRebalance", "Stable", "Dead"}

// String is the state's name on the wire.
func (s State) String() string {
	if s < 0 || s >= stateCount {
		return fmt.Sprintf("State(%d)", int8(s))
	}
	return stateNames[s]
}

// mayFollow says which states may come before a state (ClassicGroupState.java).
var mayFollow = [stateCount][]State{
	Empty:               {PreparingRebalance},
	PreparingRebalance:  {Stable, CompletingRebalance, Empty},
	CompletingRebalance: {PreparingRebalance},
	Stable:              {CompletingRebalance},
	Dead:                {Stable, PreparingRebalance, CompletingRebalance, Empty, Dead},
}
