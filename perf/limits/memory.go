package main

import (
	"hash/crc32"
	"runtime"
)

func (r *run) memory() error {
	for _, c := range []struct {
		key  string
		size int
	}{{"memcpy_l2", 64 << 10}, {"memcpy_dram", 64 << 20}} {
		from, to := make([]byte, c.size), make([]byte, c.size)
		for i := range from {
			from[i] = byte(i)
		}
		copy(to, from)
		n, took := repeat(r.slice, func() { copy(to, from) })
		r.add(c.key, float64(n)*float64(c.size)/took.Seconds()/1e9, "GB/s", "")
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	for _, c := range []struct {
		key  string
		size int
	}{{"crc32c_256", 256}, {"crc32c_16k", 16 << 10}, {"crc32c_1m", 1 << 20}} {
		data := make([]byte, c.size)
		sum := uint32(0)
		n, took := repeat(r.slice/2, func() { sum ^= crc32.Checksum(data, table) })
		runtime.KeepAlive(sum) // or nothing would be worked out
		r.add(c.key, float64(n)*float64(c.size)/took.Seconds()/1e9, "GB/s", "")
	}
	return nil
}
