#include "memory.h"

#include <cstring>
#include <new>

#include "failure.h"

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#define MEMREC_MAPS 1
#else
#include <filesystem>
#include <fstream>
#endif

namespace memrec {
namespace {

constexpr uint64_t kLineBytes = 64, kLargePage = uint64_t{2} << 20;

class Heap : public Memory {
  public:
    explicit Heap(uint64_t bytes) {
        size_ = bytes;
        data_ = static_cast<uint8_t*>(::operator new(static_cast<size_t>(bytes) + 1, std::align_val_t{kLineBytes}));
        std::memset(data_, 0, static_cast<size_t>(bytes));
    }
    ~Heap() override { ::operator delete(data_, std::align_val_t{kLineBytes}); }
};

#ifdef MEMREC_MAPS

class Mapped : public Memory {
  public:
    // From the first byte at a multiple of `alignment` on.
    Mapped(void* start, uint64_t bytes, uint64_t alignment, uint64_t size) : start_(start), bytes_(bytes) {
        data_ = static_cast<uint8_t*>(start) + (alignment - reinterpret_cast<uintptr_t>(start) % alignment) % alignment;
        size_ = size;
    }
    ~Mapped() override { munmap(start_, static_cast<size_t>(bytes_)); }

  private:
    void* start_;
    uint64_t bytes_;
};

struct Descriptor {
    int number;
    ~Descriptor() {
        if (number >= 0) close(number);
    }
};

[[noreturn]] void cannot_read(int error) {
    if (error == ENOENT) throw Failure(MEMREC_NO_FILE, "there is no such file; check the path.");
    throw Failure(MEMREC_NO_FILE, std::string("it cannot be read (") + std::strerror(error) + "); check the file.");
}

#endif

}  // namespace

#ifdef MEMREC_MAPS

std::unique_ptr<Memory> map_file(const std::string& path) {
    const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};  // a pipe would be waited for
    struct stat facts;
    if (file.number < 0 || fstat(file.number, &facts) != 0) cannot_read(errno);
    if (!S_ISREG(facts.st_mode)) throw Failure(MEMREC_NO_FILE, "it is no file; an artifact is one .safetensors file.");
    const auto bytes = static_cast<uint64_t>(facts.st_size);
    if (bytes == 0) return std::make_unique<Heap>(0);
    void* start = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ, MAP_PRIVATE, file.number, 0);
    if (start == MAP_FAILED) cannot_read(errno);
    return std::make_unique<Mapped>(start, bytes, 1, bytes);
}

std::unique_ptr<Memory> make_room(uint64_t bytes) {
    if (bytes < kLargePage) return std::make_unique<Heap>(bytes);
    const uint64_t taken = bytes + kLargePage;
    void* start = mmap(nullptr, static_cast<size_t>(taken), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    madvise(start, static_cast<size_t>(taken), MADV_HUGEPAGE);
#endif
    return std::make_unique<Mapped>(start, taken, kLargePage, bytes);
}

#else  // read as a whole

std::unique_ptr<Memory> map_file(const std::string& path) {
    const std::filesystem::path place = std::filesystem::u8path(path);
    std::error_code error;
    const uint64_t bytes = std::filesystem::file_size(place, error);
    std::ifstream file(place, std::ios::binary);
    if (error || !file) throw Failure(MEMREC_NO_FILE, "there is no such file, or it cannot be read; check the path.");
    auto memory = std::make_unique<Heap>(bytes);
    file.read(reinterpret_cast<char*>(memory->writable()), static_cast<std::streamsize>(bytes));
    if (static_cast<uint64_t>(file.gcount()) != bytes) throw Failure(MEMREC_NO_FILE, "it cannot be read; check the file.");
    return memory;
}

std::unique_ptr<Memory> make_room(uint64_t bytes) { return std::make_unique<Heap>(bytes); }

#endif

}  // namespace memrec
