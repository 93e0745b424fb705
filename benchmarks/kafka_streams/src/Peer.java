import java.time.Duration;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.Repartitioned;

/**
 * The peer: the ingest job in Kafka Streams' DSL. Scans come without a key, so they are first sent to the task
 * that owns their venue, through a repartition topic; at-least-once, state in RocksDB with its changelog, and
 * otherwise the defaults. The argument: how many stream threads.
 */
public final class Peer {
    private Peer() {
    }

    /** Runs until SIGTERM. */
    public static void main(String[] arguments) throws InterruptedException {
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(System.getenv("BENCH_INPUT"), Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()))
                .flatMap((key, value) -> ScanReader.read(value).stream()
                        .map(scan -> KeyValue.pair(scan.venue(), scan)).toList())
                .repartition(Repartitioned.with(Serdes.String(), Json.scans()).withName("by-venue"))
                .processValues(new Marks())
                .to(System.getenv("BENCH_OUTPUT"), Produced.with(Serdes.String(), Serdes.ByteArray()));

        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, System.getenv("BENCH_GROUP"));
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, System.getenv("TRUYVET_KAFKA"));
        settings.put(StreamsConfig.STATE_DIR_CONFIG, System.getenv("BENCH_STATE"));
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, arguments[0]);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.AT_LEAST_ONCE);
        settings.put(StreamsConfig.producerPrefix("compression.type"), "lz4");

        KafkaStreams streams = new KafkaStreams(builder.build(), settings);
        CountDownLatch ended = new CountDownLatch(1);
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            ended.countDown();
            return StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(10))));
        streams.start();
        ended.await();
        System.exit(1);
    }
}
