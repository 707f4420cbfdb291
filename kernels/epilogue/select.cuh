// Room: epilogues. The order in which negatives are mined (similarity descending, then row, then
// column; NaN after every number), cuts in that order, and the search for them digit by digit.
//
// A pair is three words, the larger the harder: the key of its similarity, ~row, ~column.
#pragma once

namespace epilogue {

// Order-preserving: larger for larger similarities, the same for -0 and 0; 0 for NaN.
__device__ __forceinline__ unsigned order_key(float similarity) {
    const int bits = __float_as_int(similarity + 0.0f);
    const unsigned key = bits ^ (bits >> 31 | 0x80000000);
    return similarity != similarity ? 0 : key;
}

// The similarity of a key, or of the lower end of several; -inf for NaN.
__device__ __forceinline__ float similarity_of(unsigned key) {
    // The key of -inf, which no number is below.
    if (key <= 0x007fffffu) return __uint_as_float(0xff800000u);
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// Mined are the pairs up to this one and itself. Twin of launch::CUT_BYTES.
struct alignas(16) Cut {
    float similarity;
    unsigned row;
    unsigned column;
    unsigned key;
};

// A pair of a row as one word, the larger the harder: its similarity's key as a signed number, above
// ~column. Of a positive similarity that key is the bits as they are.
using Word = long long;
constexpr int LEAST_KEY = -0x7fffffff - 1;  // NaN's
constexpr int MOST_KEY = 0x7fffffff;
constexpr Word LEAST_WORD = -0x7fffffffffffffffll - 1;
constexpr Word MOST_WORD = 0x7fffffffffffffffll;

__device__ __forceinline__ int signed_key(unsigned order) {
    return static_cast<int>(order ^ 0x80000000u);
}
__device__ __forceinline__ Word word_of(int key, unsigned low) {
    return static_cast<Word>(static_cast<unsigned long long>(key) << 32 | low);
}
__device__ __forceinline__ int key_of(Word word) { return static_cast<int>(word >> 32); }
__device__ __forceinline__ unsigned column_of(Word word) { return ~static_cast<unsigned>(word); }

// The similarity of a key that belongs to one: NaN for NaN, but 0 for -0.
__device__ __forceinline__ float value_of(int key) {
    return __int_as_float(key ^ (key >> 31 & 0x7fffffff));
}

// Stands in a sample where a pair is not negative; no similarity has these bits.
constexpr unsigned NO_PAIR = 0xffffffffu;

// Pairs of rows, each row's in a place of its own. Twin of launch::RowLists.
struct RowLists {
    Word* words;         // [rows][capacity]
    unsigned* counts;    // how many there are to be; beyond the capacity they are lost
    unsigned capacity;
};

// The rows whose lists are to be filled once more, with their cuts lowered; of more than `most` no
// list is. Twin of launch::Again.
struct Again {
    unsigned* number;  // 0 at first
    unsigned* rows;    // as many as may be, in any order
    unsigned most;
};

// Everything, NaN too.
__device__ __forceinline__ Cut no_cut() {
    return Cut{similarity_of(0), 0xffffffffu, 0xffffffffu, 0};
}

// Nothing.
__device__ __forceinline__ Cut empty_cut() {
    return Cut{__uint_as_float(0x7f800000u), 0, 0, 0xffffffffu};
}

// Everything up to this pair of a row.
__device__ __forceinline__ Cut cut_of(Word word, unsigned row) {
    const unsigned key = static_cast<unsigned>(key_of(word)) ^ 0x80000000u;
    return Cut{similarity_of(key), row, column_of(word), key};
}

// The numbers next to one that is not NaN, nor -0: similarities are above the one, or below the other,
// just if they are above or below the number itself. NaN beyond infinity, which nothing is.
__device__ __forceinline__ float next_above(float number) {
    const int bits = __float_as_int(number);
    return __int_as_float(bits + (bits < 0 ? -1 : 1));
}
__device__ __forceinline__ float next_below(float number) {
    const int bits = __float_as_int(number);
    return __int_as_float(bits == 0 ? 0x80000001 : bits + (bits < 0 ? 1 : -1));
}

// Whether a pair is mined: what MinedRow (pairs.cuh) says of numbers, and where there is no cut of NaN
// too.
__device__ __forceinline__ bool includes(const Cut& cut, float similarity, unsigned row,
                                         unsigned column) {
    const unsigned key = order_key(similarity);
    return key > cut.key ||
           (key == cut.key && (row < cut.row || (row == cut.row && column <= cut.column)));
}

// A list of pairs. Twin of launch::List.
struct List {
    float* similarity;
    unsigned* row;
    unsigned* column;
    unsigned long long capacity;
    unsigned long long* count;  // how many there are to be; beyond the capacity they are lost
};

// The search for the k-th pair of a group: the digits found so far, the rest 0; row and column
// complemented. Twin of launch::SEARCH_BYTES.
struct Search {
    unsigned long long left;  // pairs still to be taken among those with these digits
    unsigned key;
    unsigned row;
    unsigned column;
    unsigned settled;  // whether all pairs with these digits are to be taken
};

// One digit. Twin of launch::Step.
struct Step {
    unsigned word;   // 0: the similarity's key, 1: ~row, 2: ~column
    unsigned shift;
    unsigned bits;
};

// The digit of a pair; false where its digits before are not those of the search.
__device__ __forceinline__ bool digit_of(const Search& search, const Step& step, float similarity,
                                         unsigned row, unsigned column, unsigned& digit) {
    const unsigned key = order_key(similarity);
    unsigned word = key, found = search.key;
    if (step.word > 0) {
        if (key != search.key) return false;
        word = ~row, found = search.row;
    }
    if (step.word > 1) {
        if (~row != search.row) return false;
        word = ~column, found = search.column;
    }
    digit = word >> step.shift & ((1u << step.bits) - 1);
    return static_cast<unsigned long long>(word ^ found) >> (step.shift + step.bits) == 0;
}

}  // namespace epilogue
