# Read by CMake right after the first project() of llama-cpp-python (CMAKE_PROJECT_TOP_LEVEL_INCLUDES).
# It narrows the build to what the Python package loads: libllama and the three ggml libraries under it.

# llama-common is a third of the work and nothing loads it. The project forces it on in the cache; with its policy CMP0126
# a variable of this scope wins over the cache.
set(LLAMA_BUILD_COMMON OFF)

function(plugsky_narrow_llama)
    # One file per library: with a version each is installed three times, since a wheel turns links into copies.
    set_property(TARGET llama ggml ggml-base ggml-cpu PROPERTY VERSION)
    set_property(TARGET llama ggml ggml-base ggml-cpu PROPERTY SOVERSION)

    # Upstream compiles the model files as unity sources; its core files hold as well, and parse their headers once per eight.
    get_target_property(sources llama SOURCES)
    get_target_property(folder llama SOURCE_DIR)
    list(FILTER sources INCLUDE REGEX "^(llama|unicode).*\\.cpp$")
    list(TRANSFORM sources PREPEND "${folder}/")
    set_source_files_properties(${sources} TARGET_DIRECTORY llama PROPERTIES SKIP_UNITY_BUILD_INCLUSION OFF)
    set_property(TARGET llama PROPERTY UNITY_BUILD_BATCH_SIZE 8)
endfunction()

cmake_language(DEFER CALL plugsky_narrow_llama)
