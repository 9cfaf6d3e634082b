package main

import (
	"fmt"

	"millrace/tools/millrace/machine"
)

// writesOfReplicas is how often a byte is written on this machine: to the write-ahead log and to a segment, on each
// of three brokers.
const writesOfReplicas = 2 * clusterNodes

// clusterLimits puts every load on a cluster beside what bounds it: the processor time that a record takes of the
// client and all brokers together, and 128 tasks that each wait for one round trip and one and a half flushes, where
// three brokers flush at a time; for large batches the device.
func (s *suite) clusterLimits(all []*result) {
	for _, w := range clusterWorkloads() {
		r := find(all, w.id, sysD2x3)
		if r == nil || w.beside == "" {
			continue
		}
		if one := find(all, w.beside, sysD2); one != nil {
			r.set("of_one", r.get("rate")/one.get("rate"))
		}
		null := find(all, w.beside, sysNull)
		if null != nil {
			r.set("of_null", r.get("rate")/null.get("rate"))
		}
		used := r.get("broker_cores") + r.get("client_cores")
		if used <= 0 {
			continue
		}
		byCPU := r.get("rate") * processors() / used
		r.set("limit_cpu", byCPU)
		r.Limit = fmt.Sprintf("CPU of %.0f cores", processors())
		r.set("limit", byCPU)
		r.set("ratio", r.get("rate")/byCPU)
		if w.large {
			if device := s.limit("write_direct_1m_qd4") / writesOfReplicas; device > 0 {
				r.set("limit_device", device)
				if r.get("mb")/device > r.get("ratio") {
					r.Limit = limitDeviceSixth
					r.set("limit", device)
					r.set("ratio", r.get("mb")/device)
				}
			}
			continue
		}
		flush := s.flushBeside()
		if flush == 0 || null == nil {
			continue
		}
		waiting := closedTasks / (closedTasks/null.get("rate") + meanFlushesWaits*flush)
		r.set("limit_flush", waiting)
		if waiting < byCPU {
			r.Limit = "flush of three"
			r.set("limit", waiting)
			r.set("ratio", r.get("rate")/waiting)
		}
	}
}

// processors is how many of them the machine has.
func processors() float64 { return float64(machine.Cores()) }

// flushBeside is how many seconds a flush takes while two others are under way: by the better of the two ways, of
// which a broker chooses one. 0 if it was not measured.
func (s *suite) flushBeside() float64 {
	least := 0.0
	for _, key := range []string{"flush_written_dsync_4k_x3", "flush_written_fdatasync_4k_x3"} {
		if v := s.limit(key) / 1e6; v > 0 && (least == 0 || v < least) {
			least = v
		}
	}
	return least
}
