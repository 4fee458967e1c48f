#include <stddef.h>
#include <zlib.h>

// inflateInit2 is a macro. True when a raw deflate stream at `source` fills all of `target`; what follows it is left alone.
static inline int farshore_inflate_raw(const unsigned char *source, size_t source_count, unsigned char *target, size_t target_count) {
    z_stream stream = {0};
    stream.next_in = (unsigned char *)source;
    stream.avail_in = (uInt)source_count;
    stream.next_out = target;
    stream.avail_out = (uInt)target_count;
    if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) return 0;
    int result = inflate(&stream, Z_FINISH);
    inflateEnd(&stream);
    return (result == Z_STREAM_END || result == Z_BUF_ERROR) && stream.avail_out == 0;
}
