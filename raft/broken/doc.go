// Package broken names the rules of the metadata that a build with -tags broken can leave out, one at a time, to prove that
// the simulation of whole clusters would notice. In every other build they are constants, and what they guard is not
// compiled in: no running broker can be broken by them.
package broken
