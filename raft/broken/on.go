//go:build broken

package broken

// The rules, which a test may switch off before it runs anything.
var (
	// ResumeOwnEpoch: a broker that registers again goes on in the leader epochs that it led in.
	ResumeOwnEpoch = false
	// NoControllerEpoch: commands of a controller that was replaced are taken.
	NoControllerEpoch = false
	// NoDirectoryID: a broker with an empty directory stays where the one before it was trusted.
	NoDirectoryID = false
	// PowerLossForgiven: a broker that lost unflushed records stays in the ISR of topics that acknowledge before the flush.
	PowerLossForgiven = false
	// StaleELR: replicas stay eligible although records were acknowledged without them.
	StaleELR = false
	// UncleanElection: a partition without anybody in sync is given to whoever is there, whatever its topic says.
	UncleanElection = false
)
