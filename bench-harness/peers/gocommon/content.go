// Package gocommon is what the peers in Go share: the records, the sum, the words of the command line, what a phase cost.
package gocommon

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"unsafe"
)

type splitmix uint64

func (s *splitmix) next() uint64 {
	*s += 0x9E3779B97F4A7C15
	z := uint64(*s)
	z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
	z = (z ^ (z >> 27)) * 0x94D049BB133111EB
	return z ^ (z >> 31)
}

var (
	clientID   = []byte("kafkaclitest-producer")
	appVersion = []byte("1.0.0")
)

const hexDigits = "0123456789abcdef"

func hundredths(out []byte, n uint64) []byte {
	out = strconv.AppendUint(out, n/100, 10)
	rest := n % 100
	return append(out, '.', byte('0'+rest/10), byte('0'+rest%10))
}

func correlation(high, low uint64) []byte {
	high = high&^0xf000 | 0x4000
	low = low&^(3<<62) | 2<<62
	out := make([]byte, 0, 36)
	for i := 0; i < 32; i++ {
		if i == 8 || i == 12 || i == 16 || i == 20 {
			out = append(out, '-')
		}
		word := high
		if i >= 16 {
			word = low
		}
		out = append(out, hexDigits[word>>(60-4*(uint(i)%16))&15])
	}
	return out
}

// Records of the pool: over 64 MiB, in turn; and those of Klife.
const (
	poolRecords  = 262_144
	klifeRecords = 1_024
)

type plainHeader = struct {
	Key   string
	Value []byte
}

// Header is a client's own.
type Header interface{ ~plainHeader }

// Content of one record.
type Content[H Header] struct {
	Key, Value []byte
	Headers    []H
}

// Source makes records; with contents made beforehand where there is a pool.
type Source[H Header] struct {
	size uint64 // of a fixed workload, else 0
	pool []Content[H]
}

// NewSource knows the workloads by their words.
func NewSource[H Header](workload string, messages uint64) (*Source[H], error) {
	s := &Source[H]{}
	switch size, fixed := strings.CutPrefix(workload, "fixed:"); {
	case fixed:
		n, err := strconv.ParseUint(size, 10, 32)
		s.size = n
		if err != nil || n == 0 {
			return nil, fmt.Errorf("unknown workload %s", workload)
		}
	case workload == "telemetry-pool":
		s.pool = make([]Content[H], min(poolRecords, messages))
		for index := range s.pool {
			s.pool[index] = telemetry[H](uint64(index))
		}
	case workload == "klife":
		s.pool = make([]Content[H], min(klifeRecords, messages))
		for index := range s.pool {
			rng := splitmix(index)
			value := random(&rng, 1000, uint64(index))
			s.pool[index] = Content[H]{Key: random(&rng, 50, uint64(index)), Value: value}
		}
	case workload != "telemetry":
		return nil, fmt.Errorf("unknown workload %s", workload)
	}
	return s, nil
}

// Content of record `index`.
func (s *Source[H]) Content(index uint64) Content[H] {
	switch {
	case s.size > 0:
		return fixed[H](s.size, index)
	case s.pool != nil:
		return s.pool[index%uint64(len(s.pool))]
	default:
		return telemetry[H](index)
	}
}

// So many bytes: the index, and random ones.
func random(rng *splitmix, size, index uint64) []byte {
	value := binary.BigEndian.AppendUint64(make([]byte, 0, size+8), index)
	for uint64(len(value)) < size {
		value = binary.LittleEndian.AppendUint64(value, rng.next())
	}
	return value[:size]
}

func fixed[H Header](size, index uint64) Content[H] {
	rng := splitmix(index)
	return Content[H]{Value: random(&rng, size, index)}
}

// KlifePartition is where Klife's record goes, in the third of the topics that index%3 says.
func KlifePartition(index uint64, partitions int) int32 {
	rng := splitmix(index)
	return int32(rng.next() % uint64(partitions))
}

func telemetry[H Header](index uint64) Content[H] {
	rng := splitmix(index)
	key := strconv.AppendUint(append(make([]byte, 0, 24), "sensor_"...), index, 10)
	measures := rng.next()
	value := append(make([]byte, 0, 176), `{"message_index":`...)
	value = strconv.AppendUint(value, index, 10)
	value = append(value, `,"event_type":"sensor_reading","timestamp":"2026-06-02T08:00:00Z","data":{"temperature":`...)
	value = hundredths(value, 1000+(measures&0xffffffff)%3000)
	value = append(value, `,"humidity":`...)
	value = hundredths(value, 2000+(measures>>32)%7000)
	value = append(value, `,"status":"active"}}`...)
	high, low := rng.next(), rng.next()
	return Content[H]{key, value, []H{
		{Key: "correlationid", Value: correlation(high, low)},
		{Key: "client_id", Value: clientID},
		{Key: "app_version", Value: appVersion},
	}}
}

// Length plus the little-endian 64-bit words of a field; the last word overlaps the one before it, and fields under
// eight bytes are one word. The same as src/cli/commands/bench/sum.rs.
func words(field []byte) uint64 {
	sum := uint64(len(field))
	if len(field) < 8 {
		word := uint64(0)
		for i := len(field) - 1; i >= 0; i-- {
			word = word<<8 | uint64(field[i])
		}
		return sum + word
	}
	rest := field
	for ; len(rest) >= 8; rest = rest[8:] {
		sum += binary.LittleEndian.Uint64(rest)
	}
	if len(rest) > 0 {
		sum += binary.LittleEndian.Uint64(field[len(field)-8:])
	}
	return sum
}

// Sum of one record, of its bytes without a copy.
func Sum[H Header](key, value []byte, headers []H) uint64 {
	sum := words(key) + 3*words(value)
	for i := range headers {
		h := (*plainHeader)(unsafe.Pointer(&headers[i]))
		sum += 5*words(unsafe.Slice(unsafe.StringData(h.Key), len(h.Key))) + 7*words(h.Value)
	}
	return sum
}
