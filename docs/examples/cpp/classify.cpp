// The scores of an exported classifier in C++, with OpenVINO, whose Python wheel has all that this needs:
//
//     classify FOLDER/onnx/inference.onnx SHORT_SIDE CROP photo.ppm [more.ppm]
//
// SHORT_SIDE and CROP are resize_short and size of CropImage in FOLDER/inference.yml; the labels are there too. Images are
// binary PPM, so that the example needs no other library: with OpenCV, cv::imread and cv::resize do what read_ppm and
// resized do here.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <numeric>
#include <openvino/openvino.hpp>
#include <stdexcept>
#include <string>
#include <vector>

struct Image {  // RGB, row by row
    int width, height;
    std::vector<uint8_t> pixels;
    int at(int x, int y, int c) const { return pixels[3 * (static_cast<size_t>(y) * width + x) + c]; }
};

Image read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string magic;
    int width = 0, height = 0, most = 0;
    file >> magic >> width >> height >> most;
    if (!file || magic != "P6" || most != 255 || width < 1 || height < 1 || width > 16384 || height > 16384)
        throw std::runtime_error(path + ": not a binary PPM with 8 bits a channel");
    file.get();
    Image image{width, height, std::vector<uint8_t>(3 * static_cast<size_t>(width) * height)};
    if (!file.read(reinterpret_cast<char*>(image.pixels.data()), image.pixels.size()))
        throw std::runtime_error(path + ": ends too early");
    return image;
}

// Bilinear, pixel centres at halves, as OpenCV's INTER_LINEAR.
Image resized(const Image& image, int width, int height) {
    Image out{width, height, std::vector<uint8_t>(3 * static_cast<size_t>(width) * height)};
    auto source = [](int to, int from_size, int to_size, int& low, int& high) {
        const float x = std::clamp((to + 0.5f) * from_size / to_size - 0.5f, 0.0f, from_size - 1.0f);
        low = static_cast<int>(x);
        high = std::min(low + 1, from_size - 1);
        return x - low;
    };
    for (int y = 0; y < height; ++y) {
        int top, bottom;
        const float v = source(y, image.height, height, top, bottom);
        for (int x = 0; x < width; ++x) {
            int left, right;
            const float u = source(x, image.width, width, left, right);
            for (int c = 0; c < 3; ++c) {
                const float above = image.at(left, top, c) * (1 - u) + image.at(right, top, c) * u;
                const float below = image.at(left, bottom, c) * (1 - u) + image.at(right, bottom, c) * u;
                out.pixels[3 * (static_cast<size_t>(y) * width + x) + c] =
                    static_cast<uint8_t>(std::lround(above * (1 - v) + below * v));
            }
        }
    }
    return out;
}

// The short side resized, the middle cut out, normalised: as `preprocess` of inference.yml says.
void prepare(const Image& image, int short_side, int crop, float* input) {
    const float mean[] = {0.485f, 0.456f, 0.406f}, deviation[] = {0.229f, 0.224f, 0.225f};
    const double scale = static_cast<double>(short_side) / std::min(image.width, image.height);
    const Image small =
        resized(image, std::lround(image.width * scale), std::lround(image.height * scale));
    const int left = (small.width - crop) / 2, top = (small.height - crop) / 2;
    for (int c = 0; c < 3; ++c)
        for (int y = 0; y < crop; ++y)
            for (int x = 0; x < crop; ++x)
                *input++ = (small.at(left + x, top + y, c) / 255.0f - mean[c]) / deviation[c];
}

int main(int count, char** arguments) try {
    if (count < 5) throw std::runtime_error("usage: classify inference.onnx SHORT_SIDE CROP photo.ppm [more.ppm]");
    const int short_side = std::stoi(arguments[2]), crop = std::stoi(arguments[3]);
    if (crop < 1 || short_side < crop) throw std::runtime_error("SHORT_SIDE must be at least CROP");
    ov::Core core;
    ov::CompiledModel model =
        core.compile_model(arguments[1], "CPU", ov::hint::inference_precision(ov::element::f32));
    ov::InferRequest request = model.create_infer_request();
    for (int k = 4; k < count; ++k) {
        ov::Tensor input(ov::element::f32, {1, 3, static_cast<size_t>(crop), static_cast<size_t>(crop)});
        prepare(read_ppm(arguments[k]), short_side, crop, input.data<float>());
        request.set_input_tensor(input);
        request.infer();
        const ov::Tensor output = request.get_output_tensor();
        std::cout << arguments[k];
        for (size_t i = 0; i < output.get_size(); ++i) std::cout << ' ' << output.data<float>()[i];
        std::cout << '\n';
    }
    return 0;
} catch (const std::exception& error) {
    std::cerr << "classify: " << error.what() << '\n';
    return 2;
}
