// The telemetry workload through franz-go, tuned as its documentation recommends and as features §6.1 prescribes:
// linger 100 ms, batches of at most 1,000,000 bytes, acks=all, idempotence, lz4. Prints one JSON object with what the
// phase cost. Content is the same pure function of the index as in `ottla bench`.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
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

func record(topic string, index uint64, base int64) *kgo.Record {
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
	return &kgo.Record{
		Topic: topic, Key: key, Value: value, Timestamp: time.UnixMilli(base + int64(index/1000)),
		Headers: []kgo.RecordHeader{
			{Key: "correlationid", Value: correlation(high, low)},
			{Key: "client_id", Value: clientID},
			{Key: "app_version", Value: appVersion},
		},
	}
}

func cpu() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func peakRSS() uint64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for _, line := range strings.Split(string(status), "\n") {
		if rest, found := strings.CutPrefix(line, "VmHWM:"); found {
			kib, _ := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
			return kib << 10
		}
	}
	return 0
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "franz-go:", err)
		os.Exit(1)
	}
}

func main() {
	bootstrap := flag.String("b", "", "brokers")
	topic := flag.String("t", "ottla-bench", "topic")
	messages := flag.Uint64("n", 1_000_000, "records")
	partitions := flag.Int("partitions", 1, "partitions of the topic")
	phase := flag.String("phase", "produce", "produce or consume")
	flag.Parse()
	ctx := context.Background()
	started, cpuStarted := time.Now(), cpu()
	var count, bytes uint64
	switch *phase {
	case "produce":
		client, err := kgo.NewClient(
			kgo.SeedBrokers(strings.Split(*bootstrap, ",")...),
			kgo.ProducerLinger(100*time.Millisecond),
			kgo.ProducerBatchMaxBytes(1_000_000),
			kgo.RequiredAcks(kgo.AllISRAcks()),
			kgo.ProducerBatchCompression(kgo.Lz4Compression()),
		)
		fail(err)
		base := time.Now().UnixMilli()
		var failed atomic.Uint64
		done := func(_ *kgo.Record, err error) {
			if err != nil {
				failed.Add(1)
			}
		}
		for index := uint64(0); index < *messages; index++ {
			client.Produce(ctx, record(*topic, index, base), done)
		}
		fail(client.Flush(ctx))
		if failed.Load() > 0 {
			fail(fmt.Errorf("%d records failed", failed.Load()))
		}
		count = *messages
		client.Close()
	case "consume":
		offsets := map[int32]kgo.Offset{}
		for p := 0; p < *partitions; p++ {
			offsets[int32(p)] = kgo.NewOffset().AtStart()
		}
		client, err := kgo.NewClient(
			kgo.SeedBrokers(strings.Split(*bootstrap, ",")...),
			kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{*topic: offsets}),
		)
		fail(err)
		for count < *messages {
			fetches := client.PollFetches(ctx)
			for _, e := range fetches.Errors() {
				fail(e.Err)
			}
			fetches.EachRecord(func(r *kgo.Record) {
				count++
				bytes += uint64(len(r.Key) + len(r.Value))
				for _, h := range r.Headers {
					bytes += uint64(len(h.Key) + len(h.Value))
				}
			})
		}
		client.Close()
	default:
		fail(fmt.Errorf("unknown phase %s", *phase))
	}
	wall, used := time.Since(started), cpu()-cpuStarted
	fail(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"peer": "franz-go", "phase": *phase, "messages": count, "payload_bytes": bytes,
		"seconds": wall.Seconds(), "messages_per_s": float64(count) / wall.Seconds(),
		"cpu_us_per_message": float64(used.Nanoseconds()) / 1e3 / float64(count),
		"max_rss_bytes":      peakRSS(),
	}))
}
