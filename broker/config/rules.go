package config

import (
	"errors"
	"fmt"
	"regexp"
)

// commitOverhead is what a commit needs beside a batch: the rest of
// millrace.commit.max.bytes is the largest batch.
const commitOverhead = 4 << 10

func gzipLevel(v value) error {
	if v.n != -1 && (v.n < 1 || v.n > 9) {
		return errors.New("value must be between 1 and 9 or equal to -1")
	}
	return nil
}

var throttledReplica = regexp.MustCompile(`^[0-9]{1,9}:[0-9]{1,9}$`)

// throttled allows what kafka-reassign-partitions writes: "*", or
// partition:broker pairs.
func throttled() Rule {
	return Rule{
		Text: "*, or partition:broker,...",
		check: func(v value) error {
			for _, e := range v.list {
				if (e != "*" || len(v.list) > 1) && !throttledReplica.MatchString(e) {
					return errors.New("must be the literal '*' or a list of partition:broker pairs")
				}
			}
			return nil
		},
	}
}

func oneDirectory() Rule {
	return Rule{
		Text: "one directory",
		check: func(v value) error {
			switch len(v.list) {
			case 0:
				return errors.New("value must not be empty")
			case 1:
				return nil
			default:
				return errors.New("data is kept in one directory so far")
			}
		},
	}
}

func sizeOrZero(low int64) Rule {
	return Rule{
		Text: fmt.Sprintf("0, or [%d,...]", low),
		check: func(v value) error {
			if v.n != 0 && v.n < low {
				return fmt.Errorf("value must be 0 or at least %d", low)
			}
			return nil
		},
	}
}

// blocks allows sizes in whole blocks of the device.
func blocks(low, high int64) Rule {
	const block = 4096
	r := between(low, high)
	return Rule{
		Text: r.Text + " in steps of 4096",
		check: func(v value) error {
			if v.n%block != 0 {
				return errors.New("value must be a multiple of 4096")
			}
			return r.check(v)
		},
	}
}
