/** A valid scan. Absent in JSON: kind "in", source "person", party 1; receivedAt -1 when no gateway set it. */
record Scan(String scanId, String person, String venue, long scannedAt, String kind, String source, int party,
        long receivedAt) {

    long minute() {
        return scannedAt / 60_000;
    }
}
