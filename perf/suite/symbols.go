package main

import (
	"debug/elf"
	"fmt"
	"slices"
	"sort"
)

// symbols name the functions of a program, where perf cannot: some builds of perf read no ELF files.
type symbols struct {
	names  []elf.Symbol // functions by address
	offset uint64       // from a place in the file to its address
}

func symbolsOf(pid int) *symbols {
	f, err := elf.Open(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	all, err := f.Symbols()
	if err != nil {
		return nil
	}
	s := &symbols{}
	for _, name := range all {
		if elf.ST_TYPE(name.Info) == elf.STT_FUNC {
			s.names = append(s.names, name)
		}
	}
	slices.SortFunc(s.names, func(a, b elf.Symbol) int {
		if a.Value < b.Value {
			return -1
		}
		return 1
	})
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && p.Flags&elf.PF_X != 0 {
			s.offset = p.Vaddr - p.Off
		}
	}
	return s
}

// find names the function at a place in the file, which is what perf prints, or at an address; empty if there is none.
func (s *symbols) find(at uint64) string {
	if s == nil {
		return ""
	}
	for _, address := range []uint64{at + s.offset, at} {
		i := sort.Search(len(s.names), func(i int) bool { return s.names[i].Value > address }) - 1
		if i >= 0 && address < s.names[i].Value+s.names[i].Size {
			return s.names[i].Name
		}
	}
	return ""
}
