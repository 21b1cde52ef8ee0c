// One phase of a bench through franz-go, tuned as its documentation recommends: linger 100 ms, batches of at most
// 1,000,000 bytes, acks=all, idempotence, lz4. Prints one JSON object in the shape of `ottla bench --json`: effective
// settings and what the phase cost. Content is the same pure function of the index as in `ottla bench`, and a consumer
// makes the same sum of it, which the harness checks.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/HdrHistogram/hdrhistogram-go"
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

// Records of the pool: over 64 MiB, in turn; and those of Klife.
const (
	poolRecords  = 262_144
	klifeRecords = 1_024
)

// What makes records; with contents made beforehand where there is a pool.
type source struct {
	topic  string
	topics [3]string // Klife's
	base   int64
	size   uint64 // of a fixed workload, else 0
	pool   []content
}

type content struct {
	key, value []byte
	headers    []kgo.RecordHeader
}

func newSource(workload, topic string, messages uint64, base int64) (*source, error) {
	s := &source{topic: topic, base: base, topics: [3]string{topic + "-0", topic + "-1", topic + "-2"}}
	switch size, fixed := strings.CutPrefix(workload, "fixed:"); {
	case fixed:
		n, err := strconv.ParseUint(size, 10, 32)
		s.size = n
		if err != nil || n == 0 {
			return nil, fmt.Errorf("unknown workload %s", workload)
		}
	case workload == "telemetry-pool":
		s.pool = make([]content, min(poolRecords, messages))
		for index := range s.pool {
			s.pool[index] = telemetry(uint64(index))
		}
	case workload == "klife":
		s.pool = make([]content, min(klifeRecords, messages))
		for index := range s.pool {
			rng := splitmix(index)
			value := random(&rng, 1000, uint64(index))
			s.pool[index] = content{key: random(&rng, 50, uint64(index)), value: value}
		}
	case workload != "telemetry":
		return nil, fmt.Errorf("unknown workload %s", workload)
	}
	return s, nil
}

func (s *source) record(index uint64) *kgo.Record {
	var c content
	switch {
	case s.size > 0:
		c = fixed(s.size, index)
	case s.pool != nil:
		c = s.pool[index%uint64(len(s.pool))]
	default:
		c = telemetry(index)
	}
	at := time.UnixMilli(s.base + int64(index/1000))
	return &kgo.Record{Topic: s.topic, Key: c.key, Value: c.value, Headers: c.headers, Timestamp: at}
}

// So many bytes: the index, and random ones.
func random(rng *splitmix, size, index uint64) []byte {
	value := binary.BigEndian.AppendUint64(make([]byte, 0, size+8), index)
	for uint64(len(value)) < size {
		value = binary.LittleEndian.AppendUint64(value, rng.next())
	}
	return value[:size]
}

func fixed(size, index uint64) content {
	rng := splitmix(index)
	return content{value: random(&rng, size, index)}
}

// Klife's record: its topic and its partition are functions of the index.
func (s *source) klife(index uint64, partitions int) *kgo.Record {
	r, rng := s.record(index), splitmix(index)
	r.Topic, r.Partition = s.topics[index%3], int32(rng.next()%uint64(partitions))
	return r
}

func telemetry(index uint64) content {
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
	return content{key, value, []kgo.RecordHeader{
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

func sumOf(r *kgo.Record) uint64 {
	sum := words(r.Key) + 3*words(r.Value)
	for i := range r.Headers {
		h := &r.Headers[i]
		// The name's bytes without a copy.
		sum += 5*words(unsafe.Slice(unsafe.StringData(h.Key), len(h.Key))) + 7*words(h.Value)
	}
	return sum
}

// What franz-go says about batches and requests as they pass.
type counters struct {
	batches, batchBytes, produceRequests, fetchRequests atomic.Uint64
	sends                                               bool // a client that does both tells what it sent
}

const headerBytes = 61

func (c *counters) OnProduceBatchWritten(_ kgo.BrokerMetadata, _ string, _ int32, m kgo.ProduceBatchMetrics) {
	c.batches.Add(1)
	c.batchBytes.Add(uint64(m.CompressedBytes) + headerBytes)
}

func (c *counters) OnFetchBatchRead(_ kgo.BrokerMetadata, _ string, _ int32, m kgo.FetchBatchMetrics) {
	if c.sends {
		return
	}
	c.batches.Add(1)
	c.batchBytes.Add(uint64(m.CompressedBytes) + headerBytes)
}

func (c *counters) OnBrokerE2E(_ kgo.BrokerMetadata, key int16, _ kgo.BrokerE2E) {
	switch key {
	case 0:
		c.produceRequests.Add(1)
	case 1:
		c.fetchRequests.Add(1)
	}
}

// Memory of fetched records, used again after Recycle.
type pools struct{ bytes, records sync.Pool }

func (p *pools) GetDecompressBytes(compressed []byte, _ kgo.CompressionCodecType) []byte {
	if got, ok := p.bytes.Get().(*[]byte); ok {
		return *got
	}
	return make([]byte, 0, 6*len(compressed))
}
func (p *pools) PutDecompressBytes(b []byte) { p.bytes.Put(&b) }
func (p *pools) GetRecords(n int) []kgo.Record {
	if got, ok := p.records.Get().(*[]kgo.Record); ok && cap(*got) >= n {
		return *got
	}
	return make([]kgo.Record, 0, n)
}
func (p *pools) PutRecords(r []kgo.Record) { p.records.Put(&r) }

func usage() (cpu time.Duration, switches int64) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), usage.Nvcsw + usage.Nivcsw
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

// One record in so many has its way to the acknowledgement timed, as in `ottla bench`.
const ackSample = 64

// Acknowledgement times in microseconds, up to an hour, three significant digits. Promises are called one at a time.
type acks struct{ *hdrhistogram.Histogram }

func newAcks() acks { return acks{hdrhistogram.New(1, 3_600_000_000, 3)} }

func (a acks) add(took time.Duration) {
	fail(a.RecordValue(min(max(took.Microseconds(), 1), 3_600_000_000)))
}

func (a acks) quantiles() map[string]any {
	at := a.ValueAtPercentile
	return map[string]any{"p50": at(50), "p99": at(99), "p999": at(99.9)}
}

func produce(client *kgo.Client, from *source, messages uint64, waited bool, rate uint64) acks {
	var failed atomic.Uint64
	acks := newAcks()
	done := func(_ *kgo.Record, err error) {
		if err != nil {
			failed.Add(1)
		}
	}
	ctx := context.Background()
	start := time.Now()
	for index := uint64(0); index < messages; index++ {
		promise := done
		if waited {
			started := time.Now()
			fail(client.ProduceSync(ctx, from.record(index)).FirstErr())
			acks.add(time.Since(started))
			continue
		}
		if rate > 0 || index%ackSample == 0 {
			started := time.Now()
			if rate > 0 {
				// Counted from when it is due, however late those before it were.
				due := start.Add(time.Duration(index) * time.Second / time.Duration(rate))
				time.Sleep(due.Sub(started))
				started = due
			}
			promise = func(r *kgo.Record, err error) {
				acks.add(time.Since(started))
				done(r, err)
			}
		}
		client.Produce(ctx, from.record(index), promise)
	}
	fail(client.Flush(ctx))
	if failed.Load() > 0 {
		fail(fmt.Errorf("%d records failed", failed.Load()))
	}
	return acks
}

// Klife's benches: workers that wait for three records at a time, or tasks that only send, each with its share of the indices.
func klife(client *kgo.Client, from *source, messages, workers uint64, partitions int, limit time.Duration, waits bool) (acks, uint64) {
	var all sync.WaitGroup
	var together sync.Mutex
	var sent, failed atomic.Uint64
	merged, ctx, start := newAcks(), context.Background(), time.Now()
	ended := func() bool { return limit > 0 && time.Since(start) >= limit }
	done := func(_ *kgo.Record, err error) {
		if err != nil {
			failed.Add(1)
		}
	}
	wait := func(first, last uint64) {
		mine, count := newAcks(), uint64(0)
		for index := first; index < last && !ended(); index += 3 {
			started := time.Now()
			three := []*kgo.Record{from.klife(index, partitions), from.klife(index+1, partitions), from.klife(index+2, partitions)}
			fail(client.ProduceSync(ctx, three...).FirstErr())
			mine.add(time.Since(started))
			count += 3
		}
		sent.Add(count)
		together.Lock()
		defer together.Unlock()
		merged.Merge(mine.Histogram)
	}
	send := func(first, last uint64) {
		index := first
		for ; index < last && (index%256 != 0 || !ended()); index++ {
			promise := done
			if index%ackSample == 0 {
				started := time.Now()
				promise = func(r *kgo.Record, err error) {
					merged.add(time.Since(started))
					done(r, err)
				}
			}
			client.Produce(ctx, from.klife(index, partitions), promise)
		}
		sent.Add(index - first)
	}
	for worker := uint64(0); worker < workers; worker++ {
		first, last := messages/3*worker/workers*3, messages/3*(worker+1)/workers*3
		all.Go(func() {
			if waits {
				wait(first, last)
			} else {
				send(first, last)
			}
		})
	}
	all.Wait()
	fail(client.Flush(ctx))
	if failed.Load() > 0 {
		fail(fmt.Errorf("%d records failed", failed.Load()))
	}
	return merged, sent.Load()
}

// Reads so many records; to catch up, at least so many and until every partition was read to the end that came with its
// last records.
func consume(client *kgo.Client, messages uint64, partitions int, catchUp, pooled bool) (count, sum uint64) {
	ctx := context.Background()
	atEnd, missing := make([]bool, partitions), partitions
	for count < messages || (catchUp && missing > 0) {
		fetches := client.PollFetches(ctx)
		for _, e := range fetches.Errors() {
			fail(e.Err)
		}
		if catchUp {
			fetches.EachPartition(func(p kgo.FetchTopicPartition) {
				if n := len(p.Records); n > 0 {
					atEnd[p.Partition] = p.Records[n-1].Offset+1 >= p.HighWatermark
				}
			})
			missing = 0
			for _, is := range atEnd {
				if !is {
					missing++
				}
			}
		}
		fetches.EachRecord(func(r *kgo.Record) {
			count++
			sum += sumOf(r)
			if pooled {
				r.Recycle()
			}
		})
	}
	return count, sum
}

func main() {
	bootstrap := flag.String("b", "", "brokers")
	topic := flag.String("t", "ottla-bench", "topic")
	messages := flag.Uint64("n", 1_000_000, "records")
	partitions := flag.Int("partitions", 1, "partitions of the topic")
	phase := flag.String("phase", "produce", "produce or consume")
	pooled := flag.Bool("pooled", false, "give fetched records back to pools")
	workload := flag.String("workload", "telemetry", "telemetry, telemetry-pool or fixed:SIZE")
	compression := flag.String("compression", "lz4", "lz4 or none")
	linger := flag.Int("linger", 100, "milliseconds")
	mode := flag.String("mode", "full", "full, waited, paced:PER_SECOND, mixed, klife-sync:WORKERS or klife-async:TASKS; reading: full or catch-up")
	batchSize := flag.Int("batch-size", 1_000_000, "bytes")
	inFlight := flag.Int("in-flight", 0, "produce requests under way to one broker; 0 = the client's default")
	seconds := flag.Int("seconds", 0, "Klife's benches end after so long")
	flag.Parse()
	how, number, _ := strings.Cut(*mode, ":")
	var rate uint64
	if number != "" {
		parsed, err := strconv.ParseUint(number, 10, 32)
		fail(err)
		rate = parsed
	}
	codecs := map[string]kgo.CompressionCodec{"lz4": kgo.Lz4Compression(), "none": kgo.NoCompression()}
	codec, known := codecs[*compression]
	if !known {
		fail(fmt.Errorf("unknown compression %s", *compression))
	}
	count, sum, met := *messages, uint64(0), &counters{sends: *phase == "produce"}
	opts := []kgo.Opt{kgo.SeedBrokers(strings.Split(*bootstrap, ",")...), kgo.WithHooks(met)}
	row := map[string]any{"phase": *phase}
	produces, mixed := *phase == "produce", how == "mixed"
	if !produces && *phase != "consume" {
		fail(fmt.Errorf("unknown phase %s", *phase))
	}
	var from *source
	shown := map[string]any{"request_timeout_overhead": kgo.RequestTimeoutOverhead}
	if produces {
		made, err := newSource(*workload, *topic, *messages, time.Now().UnixMilli())
		fail(err)
		from = made
		opts = append(opts, kgo.ProducerLinger(time.Duration(*linger)*time.Millisecond), kgo.ProducerBatchMaxBytes(int32(*batchSize)),
			kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerBatchCompression(codec))
		if *inFlight > 0 {
			opts = append(opts, kgo.MaxProduceRequestsInflightPerBroker(*inFlight))
		}
		if strings.HasPrefix(how, "klife") {
			opts = append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))
		}
		shown["linger"], shown["batch_max_bytes"] = kgo.ProducerLinger, kgo.ProducerBatchMaxBytes
		shown["max_buffered_records"], shown["max_buffered_bytes"] = kgo.MaxBufferedRecords, kgo.MaxBufferedBytes
		shown["max_in_flight"], shown["disable_idempotent_write"] = kgo.MaxProduceRequestsInflightPerBroker, kgo.DisableIdempotentWrite
		shown["broker_max_write_bytes"] = kgo.BrokerMaxWriteBytes
	}
	if !produces || mixed {
		offsets := map[int32]kgo.Offset{}
		for p := 0; p < *partitions; p++ {
			offsets[int32(p)] = kgo.NewOffset().AtStart()
		}
		opts = append(opts, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{*topic: offsets}))
		if *pooled {
			opts = append(opts, kgo.WithPools(&pools{}))
		}
		shown["fetch_max_bytes"], shown["fetch_max_partition_bytes"] = kgo.FetchMaxBytes, kgo.FetchMaxPartitionBytes
		shown["fetch_max_wait"], shown["fetch_min_bytes"] = kgo.FetchMaxWait, kgo.FetchMinBytes
		shown["max_concurrent_fetches"] = kgo.MaxConcurrentFetches
	}
	started := time.Now()
	cpuStarted, _ := usage()
	client, err := kgo.NewClient(opts...)
	fail(err)
	acks, requests := acks{}, &met.produceRequests
	switch {
	case !produces:
		requests = &met.fetchRequests
		count, sum = consume(client, *messages, *partitions, how == "catch-up", *pooled)
	case mixed:
		var reader sync.WaitGroup
		reader.Go(func() { _, sum = consume(client, *messages, *partitions, false, *pooled) })
		acks = produce(client, from, *messages, false, 0)
		reader.Wait()
	case how == "klife-sync" || how == "klife-async":
		if rate == 0 {
			fail(fmt.Errorf("unknown mode %s", *mode))
		}
		limit := time.Duration(*seconds) * time.Second
		acks, count = klife(client, from, *messages, rate, *partitions, limit, how == "klife-sync")
	case how == "full" || how == "waited" || how == "paced":
		acks = produce(client, from, *messages, how == "waited", rate)
	default:
		fail(fmt.Errorf("unknown mode %s", *mode))
	}
	client.Close()
	wall := time.Since(started)
	total, switches := usage()
	used := total - cpuStarted
	row["messages"], row["seconds"] = count, wall.Seconds()
	row["messages_per_s"] = float64(count) / wall.Seconds()
	row["cpu_us_per_message"] = float64(used.Nanoseconds()) / 1e3 / float64(count)
	row["process_cpu_seconds"], row["context_switches"] = total.Seconds(), switches
	row["max_rss_bytes"], row["batches"], row["requests"] = peakRSS(), met.batches.Load(), requests.Load()
	row["wire_bytes"] = met.batchBytes.Load()
	settings := map[string]any{"peer": "franz-go", "version": "1.22.2", "topic": *topic, "messages": *messages,
		"workload": *workload, "mode": *mode, "partitions": *partitions, "go": runtime.Version(), "gomaxprocs": runtime.GOMAXPROCS(0)}
	// As the client has them, set or not.
	for name, option := range shown {
		settings[name] = fmt.Sprint(client.OptValue(option))
	}
	if produces {
		row["ack_us"] = acks.quantiles()
		settings["acks"], settings["compression"], settings["ack_sample"] = "all", *compression, ackSample
		if how == "waited" || how == "paced" || how == "klife-sync" {
			settings["ack_sample"] = 1
		}
	}
	if !produces || mixed {
		row["checksum"] = fmt.Sprintf("%016x", sum)
		settings["pooled"], settings["assignment"] = *pooled, "manual"
	}
	fail(json.NewEncoder(os.Stdout).Encode(map[string]any{"settings": settings, "phases": []any{row}}))
}
