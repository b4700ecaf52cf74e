// An open artifact: its tensors, and its tables ready to be looked up.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "container.h"
#include "core/memory.h"
#include "lookup/engine.h"
#include "spec.h"

namespace memrec {

struct NamedTable {
    std::string path, name;
    const Table* table;
    uint64_t bytes;  // of its tensors
};

class Artifact {
  public:
    // Of a mapped file, or of bytes that stay the caller's where `file` is null. Failure where the file is not sound.
    Artifact(std::unique_ptr<Memory> file, const uint8_t* data, uint64_t bytes, bool in_place, const Kernel* kernel);

    // Digests, indices and levels: docs/artifact.md, section 11. Failure at the first that is wrong.
    void verify() const;

    const std::vector<NamedTable>& tables() const { return tables_; }
    const Kernel* kernel() const { return kernel_; }

  private:
    struct Module {
        std::string path;
        ModuleSpec spec;
        std::vector<Tensor*> tensors;
        size_t table;  // number in store_
    };

    void check_names(const std::map<std::string, std::string>& digests) const;
    void read_modules(std::string_view text);
    void check_groups() const;
    Tensor* find(const Module& module, const std::string& name, const char* type, std::vector<uint64_t> shape);
    Rows bind_rows(Module& module, const std::string& prefix, Codec codec, uint64_t rows);
    void bind_level(Module& module, Table& table, int32_t number);
    void bind_hashing(Module& module, Table& table);
    void bind(Module& module, Table& table);
    void bind_all();
    void copy_tables();
    void lay_out_keys();
    void list_tables();

    std::unique_ptr<Memory> file_, copies_, lines_;
    const Kernel* kernel_;
    Container container_;
    std::map<std::string, std::string> aliases_, digests_;
    std::deque<Module> modules_;
    std::deque<Table> store_;
    Derived derived_;
    std::vector<NamedTable> tables_;
};

}  // namespace memrec
