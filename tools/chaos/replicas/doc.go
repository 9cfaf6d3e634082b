// Package replicas compares the logs of several data directories that nobody has open, with the engine's own
// means of inspection: each directory is checked against its format, and all must hold the same batches at the same
// offsets. Batches are compared by offsets, length, leader epoch and CRC-32C of everything behind it: what is in front
// of the checksum is all named. Logs must not be compacted.
package replicas
