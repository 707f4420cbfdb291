// Room: PTX wrappers. Votes of the lanes of a warp that are named.
#pragma once

namespace ptx {

// One bit for every lane of these that says yes.
__device__ __forceinline__ unsigned ballot(bool yes, unsigned lanes) {
    return __ballot_sync(lanes, yes);
}

// Whether one of these lanes says yes.
__device__ __forceinline__ bool any(bool yes, unsigned lanes) { return __any_sync(lanes, yes); }

}  // namespace ptx
