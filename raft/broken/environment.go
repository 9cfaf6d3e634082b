//go:build broken

package broken

import (
	"fmt"
	"os"
	"strings"
)

// rules are the rules by name.
var rules = map[string]*bool{
	"ResumeOwnEpoch": &ResumeOwnEpoch, "NoControllerEpoch": &NoControllerEpoch, "NoDirectoryID": &NoDirectoryID, "PowerLossForgiven": &PowerLossForgiven,
	"StaleELR": &StaleELR, "UncleanElection": &UncleanElection,
}

// A whole broker of such a build leaves out what MILLRACE_BROKEN names, so that it can be shown from outside, too, that it is
// noticed (tools/chaos -expect-violation). Names of other packages' rules are theirs to know.
func init() {
	for name := range strings.SplitSeq(os.Getenv("MILLRACE_BROKEN"), ",") {
		if rule := rules[name]; rule != nil {
			*rule = true
			fmt.Fprintf(os.Stderr, "BROKEN ON PURPOSE: %s\n", name)
		}
	}
}
