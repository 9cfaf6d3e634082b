package main

import (
	"fmt"
	"strings"
)

// clientAhead is how much faster than a broker the load generator has to be for the row to be the broker's.
const clientAhead = 1.3

// clientBusy is the share of a core above which a load generator of one thread may be what holds a row back.
const clientBusy = 0.85

// targets of the rows whose limit is a cost and not a rate.
const (
	tailTimesWritev  = 2.0
	catchUpCPUPerGB  = 0.25
	closedTasks      = 128
	meanFlushesWaits = 1.5 // half of the flush under way, and its own
)

// The names of the limits that are bytes a second.
const (
	limitHalfDevice  = "half the device"
	limitDeviceSixth = "device/6"
)

// limits puts every result beside what bounds it, and marks the rows that were the client's.
func (s *suite) limits(all []*result) {
	for _, r := range all {
		null, flushing := find(all, r.Row, sysNull), find(all, r.Row, sysNullFlush)
		ratio := func(name string, limit float64) {
			if limit > 0 {
				r.Limit = name
				r.set("limit", limit)
				r.set("ratio", r.get("rate")/limit)
			}
		}
		if null != nil {
			r.set("of_null", r.get("rate")/null.get("rate"))
			r.set("cpu_of_null", r.get("us_per_msg")/null.get("us_per_msg"))
			ours := r.System == sysD1 || r.System == sysD2
			if ours && null.get("rate") < clientAhead*r.get("rate") && null.get("client_cores") >= clientBusy {
				r.mark("client-bound")
			}
		}
		if flushing != nil {
			r.set("of_null_flush", r.get("rate")/flushing.get("rate"))
		}
		switch {
		case r.System != sysD1 && r.System != sysD2:
		case strings.HasPrefix(r.Row, "W3"), strings.HasPrefix(r.Row, "W4-1"):
			if one := find(all, "W4-1", r.System); r.Row == "W4-1000" && one != nil {
				ratio("one partition", one.get("rate"))
				break
			}
			// Every byte is written twice, to the write-ahead log and to its segment.
			if device := s.limit("write_direct_1m_qd4") / 2; device > 0 && r.System == sysD2 {
				r.Limit = limitHalfDevice
				r.set("limit", device)
				r.set("ratio", r.get("mb")/device)
			} else if null != nil {
				ratio("null", null.get("rate"))
			}
		case strings.HasPrefix(r.Row, "W5"):
			if plain := s.limit("loopback_writev_cpu"); plain > 0 && r.get("cpu_per_gb_out") > 0 {
				r.Limit = fmt.Sprintf("%.1f x writev's CPU", tailTimesWritev)
				r.set("limit", plain*tailTimesWritev)
				r.set("ratio", plain*tailTimesWritev/r.get("cpu_per_gb_out"))
			}
		case r.Row == "W6-1", r.Row == "W6-4":
			r.Limit = fmt.Sprintf("%.2f s/GB", catchUpCPUPerGB)
			r.set("limit", catchUpCPUPerGB)
			r.set("ratio", catchUpCPUPerGB/r.get("cpu_per_gb"))
		case r.Row == "S1" && r.System == sysD2 && flushing != nil:
			ratio("null+flush", flushing.get("rate"))
		case strings.HasPrefix(r.Row, "OL"), null == nil:
		case r.System == sysD1:
			ratio("null", null.get("rate"))
		default:
			limit, name := null.get("rate"), "null"
			if flush := r.get("flush_us") / 1e6; flush > 0 && (r.Row == "W1" || r.Row == "W2" || r.Row == "W1-raw" || r.Row == "W1-16p") {
				trip := closedTasks / null.get("rate")
				if bound := closedTasks / max(2*flush, trip+meanFlushesWaits*flush); bound < limit {
					limit, name = bound, "flush"
				}
			}
			ratio(name, limit)
		}
	}
}

// limit is a figure of this run's limits, 0 if it was not measured.
func (s *suite) limit(key string) float64 {
	for _, f := range s.bounds {
		if f.Key == key {
			return f.Value
		}
	}
	return 0
}
